/// <summary>
/// How a callback ended.
/// </summary>
enum 50100 "OAuth Callback Outcome"
{
    Extensible = false;

    value(0; Waiting)
    {
        Caption = 'Waiting';
    }
    value(1; Redeeming)
    {
        Caption = 'Being redeemed';
    }
    value(2; Redeemed)
    {
        Caption = 'Redeemed';
    }
    value(3; Declined)
    {
        Caption = 'Declined by the person or the provider';
    }
    value(4; Refused)
    {
        Caption = 'Refused by the token endpoint';
    }
    value(5; Unreachable)
    {
        Caption = 'Token endpoint not reached';
    }
}
