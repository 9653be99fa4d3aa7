/// <summary>
/// For the relay's application: it inserts callbacks, and nothing else.
/// </summary>
/// <remarks>
/// The answer to an insert repeats the record, so Business Central asks for Read as well. It is indirect (r): the
/// API page alone has it, and the API page shows no code.
/// </remarks>
permissionset 50100 "OAUTH CB RELAY"
{
    Assignable = true;
    Access = Public;
    Caption = 'OAuth Callback Relay';

    Permissions =
        tabledata "OAuth Callback" = ri,
        page "OAuth Callback API" = X;
}
