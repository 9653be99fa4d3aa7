/// <summary>
/// For the people who set up connections and connect, and for the user of the job queue entry.
/// </summary>
permissionset 50101 "OAUTH CB CONNECT"
{
    Assignable = true;
    Access = Public;
    Caption = 'OAuth Connections';

    Permissions =
        tabledata "OAuth Connection" = RIMD,
        tabledata "OAuth Callback" = RMD,
        tabledata "OAuth Pending State" = RIMD,
        table "OAuth Connection" = X,
        table "OAuth Callback" = X,
        table "OAuth Pending State" = X,
        page "OAuth Callbacks" = X,
        page "OAuth Flows" = X,
        page "OAuth Connections" = X,
        page "OAuth Connection Card" = X,
        codeunit "OAuth Secrets" = X,
        codeunit "OAuth State" = X,
        codeunit "OAuth Pending States" = X,
        codeunit "OAuth Flow" = X,
        codeunit "OAuth Token Client" = X,
        codeunit "OAuth Tokens" = X,
        codeunit "OAuth Redeem Job" = X,
        codeunit "OAuth Redemption" = X,
        codeunit "OAuth Token Saver" = X,
        codeunit "OAuth Purge" = X;
}
