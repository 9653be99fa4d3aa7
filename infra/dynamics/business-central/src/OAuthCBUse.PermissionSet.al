/// <summary>
/// For those whose work needs an access token. They read and renew tokens through the codeunit, and cannot change a
/// connection: the permission on its table is indirect.
/// </summary>
permissionset 50102 "OAUTH CB USE"
{
    Assignable = true;
    Access = Public;
    Caption = 'OAuth Tokens';

    Permissions =
        tabledata "OAuth Connection" = rm,
        codeunit "OAuth Secrets" = X,
        codeunit "OAuth Token Client" = X,
        codeunit "OAuth Token Saver" = X,
        codeunit "OAuth Tokens" = X;
}
