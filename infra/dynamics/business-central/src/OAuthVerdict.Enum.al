/// <summary>
/// What an answer of a token endpoint means.
/// </summary>
enum 50101 "OAuth Verdict"
{
    Access = Internal;
    Extensible = false;

    value(0; Tokens)
    {
        Caption = 'Tokens';
    }
    value(1; Again)
    {
        Caption = 'Later';
    }
    value(2; Refused)
    {
        Caption = 'Refused';
    }
    value(3; NotSetUp)
    {
        Caption = 'Not set up';
    }
    value(4; Unreachable)
    {
        Caption = 'Not reached';
    }
    value(5; NothingSent)
    {
        Caption = 'Nothing sent';
    }
}
