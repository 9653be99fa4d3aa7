/// <summary>
/// Returns an access token of a connection that is still valid, and renews it.
/// </summary>
codeunit 50105 "OAuth Tokens"
{
    Access = Public;
    Permissions = tabledata "OAuth Connection" = rm;

    var
        ConnectFirstErr: Label 'The connection %1 has no valid consent. Open OAuth Connections and choose Connect.', Comment = '%1 = name of the connection';
        ProviderSilentErr: Label 'The provider of the connection %1 does not answer. Try again later.', Comment = '%1 = name of the connection';

    /// <summary>
    /// Returns an access token for a connection. Other code calls this; it may commit.
    /// </summary>
    /// <param name="ConnectionName">The connection.</param>
    /// <returns>
    /// The token, valid for at least two minutes where the provider says how long it lives. Do not store it; call again.
    /// When the provider answers 401, call AccessTokenAfterRefusal.
    /// </returns>
    procedure AccessToken(ConnectionName: Text[50]): SecretText
    begin
        exit(Provide(ConnectionName, false));
    end;

    /// <summary>
    /// Returns another access token after the provider has answered 401 to the last one.
    /// </summary>
    procedure AccessTokenAfterRefusal(ConnectionName: Text[50]): SecretText
    begin
        exit(Provide(ConnectionName, true));
    end;

    [NonDebuggable]
    local procedure Provide(ConnectionName: Text[50]; Refused: Boolean): SecretText
    var
        Connection: Record "OAuth Connection";
        Secrets: Codeunit "OAuth Secrets";
    begin
        Connection.Get(ConnectionName);
        if IsDue(Connection, Refused) then begin
            Renew(ConnectionName, Refused);
            Connection.Get(ConnectionName);
        end;

        if Connection."Needs Consent" then
            Error(ConnectFirstErr, ConnectionName);
        if IsDue(Connection, Refused) then
            Error(ProviderSilentErr, ConnectionName);
        exit(Secrets.Get(Connection.SystemId, Secrets.AccessTokenKind()));
    end;

    /// <summary>
    /// Renews the tokens, unless another session is doing so: then it waits for that.
    /// </summary>
    /// <remarks>
    /// A lease keeps other sessions away during the request, and no transaction is open. With rotating refresh tokens, a
    /// second use of the same one looks like theft to the provider, which then revokes all tokens (RFC 9700, section
    /// 4.14.2).
    /// </remarks>
    [NonDebuggable]
    local procedure Renew(ConnectionName: Text[50]; Refused: Boolean)
    var
        Connection: Record "OAuth Connection";
        TokenClient: Codeunit "OAuth Token Client";
        TokenSaver: Codeunit "OAuth Token Saver";
        Answer: JsonObject;
        AnswerText: Text;
        RefreshToken: Text;
        Attempt: Integer;
        Verdict: Enum "OAuth Verdict";
    begin
        // Commits the caller's changes too: a later error must not roll back the new refresh token.
        Commit();
        if not Lease(ConnectionName, Refused, Connection, RefreshToken) then begin
            AwaitLease(ConnectionName);
            exit;
        end;

        Verdict := TokenClient.Refresh(Connection, RefreshToken, AnswerText);
        if Verdict = "OAuth Verdict"::Tokens then begin
            TokenSaver.SetAnswer(Connection.SystemId, AnswerText, CurrentDateTime());
            for Attempt := 1 to 5 do begin
                if TokenSaver.Run() then
                    exit;
                ClearLastError();
            end;
            // The last time with its error: the caller must know.
            TokenSaver.Run();
        end;

        if Answer.ReadFrom(AnswerText) then;
        EndLease(ConnectionName, (Verdict = "OAuth Verdict"::Refused) and (TokenClient.Member(Answer, 'error') = 'invalid_grant'));
    end;

    /// <summary>
    /// Takes the lease and returns the refresh token, unless there is nothing to do here.
    /// </summary>
    [NonDebuggable]
    local procedure Lease(ConnectionName: Text[50]; Refused: Boolean; var Connection: Record "OAuth Connection"; var RefreshToken: Text): Boolean
    var
        Secrets: Codeunit "OAuth Secrets";
    begin
        Connection.ReadIsolation := IsolationLevel::UpdLock;
        Connection.Get(ConnectionName);
        if IsDue(Connection, Refused) and (Connection."Leased Until" <= CurrentDateTime()) then begin
            if Connection.Renewable then begin
                RefreshToken := Secrets.Get(Connection.SystemId, Secrets.RefreshTokenKind());
                Connection."Leased Until" := CurrentDateTime() + LeaseMilliseconds();
            end else
                // Refused, and nothing renews it.
                Connection."Needs Consent" := true;
            Connection.Modify();
        end;
        Commit();
        exit(RefreshToken <> '');
    end;

    local procedure AwaitLease(ConnectionName: Text[50])
    var
        Connection: Record "OAuth Connection";
    begin
        repeat
            Sleep(500);
            SelectLatestVersion();
            Connection.Get(ConnectionName);
        until Connection."Leased Until" <= CurrentDateTime();
    end;

    local procedure EndLease(ConnectionName: Text[50]; GrantIsGone: Boolean)
    var
        Connection: Record "OAuth Connection";
    begin
        Connection.ReadIsolation := IsolationLevel::UpdLock;
        Connection.Get(ConnectionName);
        Connection."Leased Until" := 0DT;
        if GrantIsGone then
            Connection."Needs Consent" := true;
        Connection.Modify();
        Commit();
    end;

    /// <summary>
    /// Returns whether a token has to be renewed and can be. Without a refresh token it is used until it is refused;
    /// without a known end, too.
    /// </summary>
    local procedure IsDue(Connection: Record "OAuth Connection"; Refused: Boolean): Boolean
    begin
        if Connection."Needs Consent" then
            exit(false);
        // A token of the last minute is not the one that was refused: another session has renewed it.
        if Refused and (Connection."Token Obtained At" < CurrentDateTime() - LeaseMilliseconds()) then
            exit(true);
        if not Connection.Renewable or (Connection."Token Expires At" = 0DT) then
            exit(false);
        // The token must not expire on its way to the provider.
        exit(Connection."Token Expires At" <= CurrentDateTime() + 120000);
    end;

    local procedure LeaseMilliseconds(): Integer
    begin
        // Longer than a token request can take.
        exit(60000);
    end;
}
