/// <summary>
/// How far a callback came. infra/dynamics/README.md has the states and their order.
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
    value(4; Expired)
    {
        Caption = 'Expired before it was redeemed';
    }
    value(5; Refused)
    {
        Caption = 'Refused by the token endpoint';
    }
    value(6; Unreachable)
    {
        Caption = 'Token endpoint not reached';
    }
    value(7; NotSetUp)
    {
        Caption = 'Not set up';
    }
    value(8; NotStored)
    {
        Caption = 'Tokens not stored yet';
    }
    value(9; Interrupted)
    {
        Caption = 'Interrupted';
    }
}
