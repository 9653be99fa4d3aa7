/// <summary>
/// Stores a token response, in a run of its own: an error undoes all of it and leaves the answer with the caller.
/// </summary>
codeunit 50108 "OAuth Token Saver"
{
    Access = Internal;
    Permissions = tabledata "OAuth Connection" = rm;

    trigger OnRun()
    begin
        Save();
    end;

    var
        AnswerText: Text;
        ConnectionId: Guid;
        ObtainedAt: DateTime;

    /// <summary>
    /// Says what to store.
    /// </summary>
    /// <param name="Id">The SystemId of the connection.</param>
    /// <param name="Answer">An answer with a token.</param>
    /// <param name="CameAt">When it came.</param>
    [NonDebuggable]
    procedure SetAnswer(Id: Guid; Answer: Text; CameAt: DateTime)
    begin
        ConnectionId := Id;
        AnswerText := Answer;
        ObtainedAt := CameAt;
    end;

    [NonDebuggable]
    local procedure Save()
    var
        Connection: Record "OAuth Connection";
        Secrets: Codeunit "OAuth Secrets";
        TokenClient: Codeunit "OAuth Token Client";
        Answer: JsonObject;
        RefreshToken: Text;
    begin
        // Read now, and not before the request: somebody may have changed the connection meanwhile.
        Connection.ReadIsolation := IsolationLevel::UpdLock;
        Connection.GetBySystemId(ConnectionId);
        Answer.ReadFrom(AnswerText);
        Secrets.Set(ConnectionId, Secrets.AccessTokenKind(), TokenClient.Member(Answer, 'access_token'));
        RefreshToken := TokenClient.Member(Answer, 'refresh_token');
        if RefreshToken <> '' then begin
            // A response without a refresh token means that the old one stays valid (RFC 6749, section 6).
            Secrets.Set(ConnectionId, Secrets.RefreshTokenKind(), RefreshToken);
            Connection.Renewable := true;
        end;

        Connection."Token Obtained At" := ObtainedAt;
        Connection."Token Expires At" := TokenClient.ExpiresAt(Answer, ObtainedAt);
        Connection."Leased Until" := 0DT;
        Connection."Needs Consent" := false;
        Connection.Modify();
    end;
}
