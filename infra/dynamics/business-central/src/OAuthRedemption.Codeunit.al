/// <summary>
/// Takes one callback as far as it goes. infra/dynamics/README.md has the states and their order.
/// </summary>
codeunit 50107 "OAuth Redemption"
{
    Access = Internal;
    TableNo = "OAuth Callback";

    trigger OnRun()
    begin
        Advance(Rec);
    end;

    local procedure Advance(Callback: Record "OAuth Callback")
    begin
        case Callback.Outcome of
            "OAuth Callback Outcome"::Redeeming:
                if CurrentDateTime() - Callback."Claimed At" > InterruptedMilliseconds() then
                    Close(Callback, "OAuth Callback Outcome"::Redeeming, "OAuth Callback Outcome"::Interrupted);
            "OAuth Callback Outcome"::NotStored:
                if CurrentDateTime() - Callback."Claimed At" > HoldMilliseconds() then
                    Close(Callback, "OAuth Callback Outcome"::NotStored, "OAuth Callback Outcome"::Interrupted)
                else
                    StoreHeld(Callback);
            else
                if not Callback."Code".HasValue() then
                    Close(Callback, Callback.Outcome, "OAuth Callback Outcome"::Declined)
                else
                    if IsOver(Callback) then
                        Close(Callback, Callback.Outcome, "OAuth Callback Outcome"::Expired)
                    else
                        Redeem(Callback);
        end;
    end;

    local procedure IsOver(Callback: Record "OAuth Callback"): Boolean
    begin
        if (Callback."Expires At" <> 0DT) and (CurrentDateTime() > Callback."Expires At") then
            exit(true);
        exit(CurrentDateTime() - Callback.SystemCreatedAt > HoldMilliseconds());
    end;

    /// <summary>
    /// Redeems a code: first everything that can fail, then the claim, then the one request, then the tokens.
    /// </summary>
    /// <remarks>
    /// The record is emptied before the token request, so that no second job sends the same code: a provider
    /// that sees a code twice revokes the tokens (RFC 6749, section 4.1.2).
    /// </remarks>
    [NonDebuggable]
    local procedure Redeem(Callback: Record "OAuth Callback")
    var
        Connection: Record "OAuth Connection";
        TokenClient: Codeunit "OAuth Token Client";
        AnswerText: Text;
        CodeText: Text;
        CodeVerifier: Text[128];
        RedirectUri: Text;
    begin
        CodeText := Callback.GetCode();
        CodeVerifier := Callback."Code Verifier";
        if not Connection.Get(Callback."Connection Name") then begin
            Note(Callback, "OAuth Callback Outcome"::NotSetUp);
            exit;
        end;
        if not TokenClient.IsReady(Connection) then begin
            Note(Callback, "OAuth Callback Outcome"::NotSetUp);
            exit;
        end;
        if not Claim(Callback) then
            exit;

        // From here on the code is in this procedure only.
        RedirectUri := Callback."Redirect URI";
        if RedirectUri = '' then
            RedirectUri := Connection."Redirect URI";
        case TokenClient.Redeem(Connection, CodeText, RedirectUri, CodeVerifier, AnswerText) of
            "OAuth Verdict"::Tokens:
                Store(Callback, Connection, AnswerText);
            "OAuth Verdict"::Again:
                PutBack(Callback, CodeText, CodeVerifier, "OAuth Callback Outcome"::Waiting);
            "OAuth Verdict"::NothingSent:
                PutBack(Callback, CodeText, CodeVerifier, "OAuth Callback Outcome"::NotSetUp);
            "OAuth Verdict"::NotSetUp:
                Close(Callback, "OAuth Callback Outcome"::Redeeming, "OAuth Callback Outcome"::NotSetUp);
            "OAuth Verdict"::Refused:
                Close(Callback, "OAuth Callback Outcome"::Redeeming, "OAuth Callback Outcome"::Refused);
            else
                Close(Callback, "OAuth Callback Outcome"::Redeeming, "OAuth Callback Outcome"::Unreachable);
        end;
    end;

    /// <summary>
    /// Claims a callback for redeeming, and empties it. Only one of two jobs can.
    /// </summary>
    local procedure Claim(Callback: Record "OAuth Callback"): Boolean
    var
        Claimed: Record "OAuth Callback";
    begin
        Claimed.ReadIsolation := IsolationLevel::UpdLock;
        Claimed.Get(Callback."State Hash");
        if not (Claimed.Outcome in ["OAuth Callback Outcome"::Waiting, "OAuth Callback Outcome"::NotSetUp]) or Claimed.Processed then
            exit(false);

        Clear(Claimed."Code");
        Clear(Claimed."Code Verifier");
        Claimed.Outcome := "OAuth Callback Outcome"::Redeeming;
        Claimed."Claimed At" := CurrentDateTime();
        Claimed.Modify();
        Commit();
        exit(true);
    end;

    /// <summary>
    /// Stores tokens; when that fails they wait in isolated storage, encrypted.
    /// </summary>
    [NonDebuggable]
    local procedure Store(Callback: Record "OAuth Callback"; Connection: Record "OAuth Connection"; AnswerText: Text)
    var
        Held: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
        Secrets: Codeunit "OAuth Secrets";
        TokenSaver: Codeunit "OAuth Token Saver";
    begin
        TokenSaver.SetAnswer(Connection.SystemId, AnswerText, CurrentDateTime());
        if TokenSaver.Run() then begin
            Close(Callback, "OAuth Callback Outcome"::Redeeming, "OAuth Callback Outcome"::Redeemed);
            exit;
        end;

        ClearLastError();
        Secrets.Set(Callback.SystemId, Secrets.HeldTokensKind(), AnswerText);
        Held.ReadIsolation := IsolationLevel::UpdLock;
        Held.Get(Callback."State Hash");
        Held.Outcome := "OAuth Callback Outcome"::NotStored;
        Held.Modify();
        PendingStates.Tell(Held);
        Commit();
    end;

    /// <summary>
    /// Stores tokens that an earlier run could not store, unless somebody has connected again meanwhile.
    /// </summary>
    [NonDebuggable]
    local procedure StoreHeld(Callback: Record "OAuth Callback")
    var
        Connection: Record "OAuth Connection";
        Secrets: Codeunit "OAuth Secrets";
        TokenSaver: Codeunit "OAuth Token Saver";
    begin
        Connection.Get(Callback."Connection Name");
        if Connection."Token Obtained At" > Callback."Claimed At" then begin
            Close(Callback, "OAuth Callback Outcome"::NotStored, "OAuth Callback Outcome"::Interrupted);
            exit;
        end;

        TokenSaver.SetAnswer(
            Connection.SystemId, Secrets.Get(Callback.SystemId, Secrets.HeldTokensKind()), Callback."Claimed At");
        if TokenSaver.Run() then
            Close(Callback, "OAuth Callback Outcome"::NotStored, "OAuth Callback Outcome"::Redeemed)
        else
            ClearLastError();
    end;

    /// <summary>
    /// Puts the code back for the next run: the provider said later, or nothing was sent.
    /// </summary>
    [NonDebuggable]
    local procedure PutBack(Callback: Record "OAuth Callback"; CodeText: Text; CodeVerifier: Text[128]; Outcome: Enum "OAuth Callback Outcome")
    var
        Kept: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
    begin
        Kept.ReadIsolation := IsolationLevel::UpdLock;
        Kept.Get(Callback."State Hash");
        Kept.SetCode(CodeText);
        Kept."Code Verifier" := CodeVerifier;
        Kept."Claimed At" := 0DT;
        Kept.Outcome := Outcome;
        Kept.Modify();
        PendingStates.Tell(Kept);
        Commit();
    end;

    /// <summary>
    /// Shows why nothing happened; the callback stays open and keeps its code.
    /// </summary>
    local procedure Note(Callback: Record "OAuth Callback"; Outcome: Enum "OAuth Callback Outcome")
    var
        Noted: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
    begin
        Noted.ReadIsolation := IsolationLevel::UpdLock;
        Noted.Get(Callback."State Hash");
        if Noted.Outcome <> "OAuth Callback Outcome"::Waiting then
            exit;
        Noted.Outcome := Outcome;
        Noted.Modify();
        PendingStates.Tell(Noted);
        Commit();
    end;

    /// <summary>
    /// Ends a callback and empties it, unless another session has moved it meanwhile.
    /// </summary>
    local procedure Close(Callback: Record "OAuth Callback"; FromOutcome: Enum "OAuth Callback Outcome"; Outcome: Enum "OAuth Callback Outcome")
    var
        Closed: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
        Secrets: Codeunit "OAuth Secrets";
    begin
        Closed.ReadIsolation := IsolationLevel::UpdLock;
        Closed.Get(Callback."State Hash");
        if Closed.Outcome <> FromOutcome then
            exit;
        Clear(Closed."Code");
        Clear(Closed."Code Verifier");
        Closed.Processed := true;
        Closed.Outcome := Outcome;
        Closed.Modify();
        Secrets.DeleteAll(Closed.SystemId);
        PendingStates.Tell(Closed);
        Commit();
    end;

    local procedure InterruptedMilliseconds(): Integer
    begin
        // A job that has claimed a callback asks the provider for half a minute at most.
        exit(10 * 60 * 1000);
    end;

    local procedure HoldMilliseconds(): Integer
    begin
        // The longest that a code that could not be sent, or tokens that could not be stored, are kept.
        exit(24 * 60 * 60 * 1000);
    end;
}
