/// <summary>
/// Stores the tokens of a connection, and returns an access token that is still valid.
/// </summary>
codeunit 50105 "OAuth Tokens"
{
    Access = Public;

    var
        ConnectFirstErr: Label 'The connection %1 has no valid consent. Open OAuth Connections and choose Connect.', Comment = '%1 = name of the connection';
        ProviderSilentErr: Label 'The provider of the connection %1 does not answer. Try again later.', Comment = '%1 = name of the connection';

    /// <summary>
    /// Returns an access token for a connection. Other code calls this; it commits.
    /// </summary>
    /// <param name="ConnectionName">The connection.</param>
    /// <returns>The token, valid for at least two minutes. Do not store it; call again.</returns>
    [NonDebuggable]
    procedure AccessToken(ConnectionName: Text[50]): SecretText
    var
        Connection: Record "OAuth Connection";
        Secrets: Codeunit "OAuth Secrets";
    begin
        Connection.Get(ConnectionName);
        if not IsFresh(Connection) then
            Refresh(Connection);

        if Connection."Needs Consent" then
            Error(ConnectFirstErr, ConnectionName);
        if not IsFresh(Connection) then
            Error(ProviderSilentErr, ConnectionName);
        exit(Secrets.Get(ConnectionName, Secrets.AccessTokenKind()));
    end;

    /// <summary>
    /// Stores a token response.
    /// </summary>
    /// <param name="Connection">The connection.</param>
    /// <param name="Answer">The answer of the token endpoint.</param>
    /// <returns>Whether there was a token in it.</returns>
    [NonDebuggable]
    internal procedure Save(var Connection: Record "OAuth Connection"; Answer: JsonObject): Boolean
    var
        Secrets: Codeunit "OAuth Secrets";
        RefreshToken: Text;
        Seconds: Integer;
    begin
        if Member(Answer, 'access_token') = '' then
            exit(false);

        Secrets.Set(Connection.Name, Secrets.AccessTokenKind(), Member(Answer, 'access_token'));
        RefreshToken := Member(Answer, 'refresh_token');
        if RefreshToken <> '' then
            // A response without a refresh token means that the old one stays valid (RFC 6749, section 6).
            Secrets.Set(Connection.Name, Secrets.RefreshTokenKind(), RefreshToken);

        if not Evaluate(Seconds, Member(Answer, 'expires_in'), 9) then
            Seconds := 300;
        Connection."Token Expires At" := CurrentDateTime() + Seconds * 1000;
        Connection."Needs Consent" := false;
        Connection.Modify();
        exit(true);
    end;

    /// <summary>
    /// Refreshes the tokens, unless another session has just done so.
    /// </summary>
    /// <remarks>
    /// The record is locked during the request. With rotating refresh tokens, a second use of the same one
    /// looks like theft to the provider, which then revokes all tokens (RFC 9700, section 4.14.2).
    /// </remarks>
    [NonDebuggable]
    local procedure Refresh(var Connection: Record "OAuth Connection")
    var
        Secrets: Codeunit "OAuth Secrets";
        TokenClient: Codeunit "OAuth Token Client";
        Answer: JsonObject;
        RefreshToken: Text;
    begin
        // Commits the caller's changes too: a later error must not roll back the new refresh token.
        Commit();
        Connection.ReadIsolation := IsolationLevel::UpdLock;
        Connection.Get(Connection.Name);
        if Connection."Needs Consent" or IsFresh(Connection) then begin
            Commit();
            exit;
        end;

        RefreshToken := Secrets.Get(Connection.Name, Secrets.RefreshTokenKind());
        if RefreshToken = '' then
            AskForConsent(Connection)
        else
            if TokenClient.Refresh(Connection, RefreshToken, Answer) then
                if not Save(Connection, Answer) then
                    if Member(Answer, 'error') = 'invalid_grant' then
                        AskForConsent(Connection);
        Commit();
    end;

    local procedure AskForConsent(var Connection: Record "OAuth Connection")
    begin
        Connection."Needs Consent" := true;
        Connection.Modify();
    end;

    local procedure IsFresh(Connection: Record "OAuth Connection"): Boolean
    begin
        // The token must not expire on its way to the provider.
        exit(not Connection."Needs Consent" and (Connection."Token Expires At" > CurrentDateTime() + 120000));
    end;

    [NonDebuggable]
    local procedure Member(Answer: JsonObject; Name: Text): Text
    var
        Value: JsonToken;
    begin
        if not Answer.Get(Name, Value) then
            exit('');
        if not Value.IsValue() then
            exit('');
        if Value.AsValue().IsNull() then
            exit('');
        exit(Value.AsValue().AsText());
    end;
}
