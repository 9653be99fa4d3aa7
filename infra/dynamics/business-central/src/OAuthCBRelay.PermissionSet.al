/// <summary>
/// For the relay's application: it inserts callbacks, and nothing else.
/// </summary>
/// <remarks>
/// The response to an insert contains the record, so Business Central requires Read as well. It is indirect (r): only
/// the API page has it, and that page shows no code.
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
