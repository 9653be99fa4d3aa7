/// <summary>
/// Redeems pending callbacks. Run it as a job queue entry, every minute: codes expire within minutes.
/// </summary>
codeunit 50106 "OAuth Redeem Job"
{
    trigger OnRun()
    var
        Callback: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
        Waiting: List of [Text[64]];
        StateHash: Text[64];
    begin
        Callback.SetRange(Processed, false);
        if Callback.FindSet() then
            repeat
                Waiting.Add(Callback."State Hash");
            until Callback.Next() = 0;

        foreach StateHash in Waiting do
            Redeem(StateHash);
        PendingStates.Purge();
        Purge();
    end;

    /// <summary>
    /// Deletes the callbacks that were completed a month ago. Their states have expired long before.
    /// </summary>
    local procedure Purge()
    var
        Callback: Record "OAuth Callback";
    begin
        Callback.SetRange(Processed, true);
        Callback.SetFilter("Received At", '<%1', CreateDateTime(CalcDate('<-30D>', Today()), 0T));
        Callback.DeleteAll();
    end;

    /// <summary>
    /// Redeems one callback.
    /// </summary>
    /// <remarks>
    /// The record is closed before the token request, so that no second job sends the same code: a provider
    /// that sees a code twice revokes the tokens (RFC 6749, section 4.1.2). If this job fails in between, the
    /// record stays at Redeeming, and the person must start again.
    /// </remarks>
    [NonDebuggable]
    local procedure Redeem(StateHash: Text[64])
    var
        Callback: Record "OAuth Callback";
        CodeText: Text;
        CodeVerifier: Text;
    begin
        Callback.ReadIsolation := IsolationLevel::UpdLock;
        if not Callback.Get(StateHash) then
            exit;
        if Callback.Processed then
            exit;

        CodeText := Callback.GetCode();
        CodeVerifier := Callback."Code Verifier";
        Clear(Callback."Code");
        Clear(Callback."Code Verifier");
        Callback.Processed := true;
        Callback.Outcome := "OAuth Callback Outcome"::Redeeming;
        Callback.Modify();
        Commit();

        Callback.Outcome := Ask(Callback, CodeText, CodeVerifier);
        Callback.Modify();
        Commit();
    end;

    [NonDebuggable]
    local procedure Ask(Callback: Record "OAuth Callback"; CodeText: Text; CodeVerifier: Text): Enum "OAuth Callback Outcome"
    var
        Connection: Record "OAuth Connection";
        PendingStates: Codeunit "OAuth Pending States";
        TokenClient: Codeunit "OAuth Token Client";
        Tokens: Codeunit "OAuth Tokens";
        Answer: JsonObject;
        RedirectUri: Text;
    begin
        if CodeText = '' then
            exit("OAuth Callback Outcome"::Declined);
        if not Connection.Get(Callback."Connection Name") then
            exit("OAuth Callback Outcome"::Refused);

        // If the relay started the flow, it sends both with the code.
        RedirectUri := Callback."Redirect URI";
        if RedirectUri = '' then
            RedirectUri := Connection."Redirect URI";
        if CodeVerifier = '' then
            CodeVerifier := PendingStates.CodeVerifierOf(Callback);

        if not TokenClient.Redeem(Connection, CodeText, RedirectUri, CodeVerifier, Answer) then
            exit("OAuth Callback Outcome"::Unreachable);
        if not Tokens.Save(Connection, Answer) then
            exit("OAuth Callback Outcome"::Refused);
        exit("OAuth Callback Outcome"::Redeemed);
    end;
}
