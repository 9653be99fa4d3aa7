/// <summary>
/// Keeps the tokens of a connection, and hands out an access token that is still good.
/// </summary>
codeunit 50105 "OAuth Tokens"
{
    Access = Public;

    var
        ConnectFirstErr: Label 'The connection %1 has no valid consent. Open OAuth Connections and choose Connect.', Comment = '%1 = name of the connection';
        ProviderSilentErr: Label 'The provider of the connection %1 does not answer. Try again later.', Comment = '%1 = name of the connection';

    /// <summary>
    /// Returns an access token for a connection. This is what other code calls; it commits.
    /// </summary>
    /// <param name="ConnectionName">The connection.</param>
    /// <returns>The token, good for two minutes at least. Do not keep it; ask again.</returns>
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
    /// Stores what a provider gave.
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
            // An answer without one means: keep the one you have (RFC 6749, section 6).
            Secrets.Set(Connection.Name, Secrets.RefreshTokenKind(), RefreshToken);

        if not Evaluate(Seconds, Member(Answer, 'expires_in'), 9) then
            Seconds := 300;
        Connection."Token Expires At" := CurrentDateTime() + Seconds * 1000;
        Connection."Needs Consent" := false;
        Connection.Modify();
        exit(true);
    end;

    /// <summary>
    /// Refreshes the tokens, unless somebody else has just done so.
    /// </summary>
    /// <remarks>
    /// The record is locked while the provider is asked. Where each refresh replaces the refresh token, a second one
    /// at the same time looks like a thief to the provider, and it withdraws everything (RFC 9700, section 4.14.2).
    /// </remarks>
    [NonDebuggable]
    local procedure Refresh(var Connection: Record "OAuth Connection")
    var
        Secrets: Codeunit "OAuth Secrets";
        TokenClient: Codeunit "OAuth Token Client";
        Answer: JsonObject;
        RefreshToken: Text;
    begin
        // What the caller has written is kept: an error of theirs must not take back the new refresh token.
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
        // A token that ends its life on the way is of no use.
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
