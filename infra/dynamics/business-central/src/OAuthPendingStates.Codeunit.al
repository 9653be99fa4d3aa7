/// <summary>
/// Stores the flows that were started here, and accepts one callback for each.
/// </summary>
codeunit 50102 "OAuth Pending States"
{
    Access = Internal;
    InherentEntitlements = X;
    InherentPermissions = X;

    var
        HashWrongErr: Label 'The hash does not belong to the state.';
        UnknownErr: Label 'Business Central does not wait for this state.';
        UsedErr: Label 'The state has been used.';
        ExpiredErr: Label 'The callback came after the end of its state.';

    /// <summary>
    /// Stores a flow before the browser is sent away.
    /// </summary>
    /// <param name="FlowName">Its name, the jti of its state.</param>
    /// <param name="ConnectionName">The connection that it is for.</param>
    /// <param name="Seconds">How long it may take.</param>
    /// <param name="StateHash">The hash of its state, where it was minted here.</param>
    /// <param name="CodeVerifier">Its code verifier, where it was made here.</param>
    procedure Remember(FlowName: Text[64]; ConnectionName: Text[50]; Seconds: Integer; StateHash: Text[64]; CodeVerifier: Text[128])
    var
        PendingState: Record "OAuth Pending State";
    begin
        PendingState."Flow Name" := FlowName;
        PendingState."Connection Name" := ConnectionName;
        PendingState."State Hash" := StateHash;
        PendingState."Code Verifier" := CodeVerifier;
        PendingState."Started By" := CopyStr(UserId(), 1, MaxStrLen(PendingState."Started By"));
        PendingState."Expires At" := CurrentDateTime() + Seconds * 1000;
        PendingState.Insert();
    end;

    /// <summary>
    /// Ends the flow that a callback belongs to, or raises an error: then the callback is not stored.
    /// </summary>
    /// <param name="Callback">The callback before it is stored. It gets its first outcome and its code verifier.</param>
    [InherentPermissions(PermissionObjectType::TableData, Database::"OAuth Pending State", 'rm')]
    [InherentPermissions(PermissionObjectType::TableData, Database::"OAuth Callback", 'rd')]
    procedure Take(var Callback: Record "OAuth Callback")
    var
        Stored: Record "OAuth Callback";
        PendingState: Record "OAuth Pending State";
        State: Codeunit "OAuth State";
        IsKnown: Boolean;
        Replaces: Boolean;
    begin
        if Callback."State Hash" <> State.Hash(Callback."State") then
            Error(HashWrongErr);

        // The second of two simultaneous inserts waits here until the first one's transaction has ended.
        PendingState.ReadIsolation := IsolationLevel::UpdLock;
        IsKnown := PendingState.Get(State.FlowNameOf(Callback."State"));

        // Another state that the same ticket started has an answer here. The body names {state_jti}, so the relay knows
        // what a duplicate means then: let this one fail at the primary key, with the hash of that answer.
        if IsKnown and PendingState.Used then
            if (PendingState."Flow Name" = Callback."Flow Name") and (PendingState."State Hash" <> Callback."State Hash") then begin
                Callback."State Hash" := PendingState."State Hash";
                Clear(Callback."Code");
            end;

        Stored.ReadIsolation := IsolationLevel::ReadCommitted;
        if Stored.Get(Callback."State Hash") then begin
            Replaces := Callback."Code".HasValue() and (Stored.Outcome = "OAuth Callback Outcome"::Declined);
            // The relay repeats a delivery whose answer was lost. The duplicate must fail at the primary key, which
            // the relay treats as success; an error raised here would count as a refusal.
            if not Replaces then
                exit;
        end;

        if not IsKnown then
            Error(UnknownErr);
        if PendingState."Connection Name" <> Callback."Connection Name" then
            Error(UnknownErr);
        if not (PendingState."State Hash" in ['', Callback."State Hash"]) then
            Error(UnknownErr);
        if PendingState.Used and not Replaces then
            Error(UsedErr);
        if ReceivedAt(Callback) > PendingState."Expires At" + LeewayMilliseconds() then
            Error(ExpiredErr);

        if Replaces then
            Stored.Delete();
        Callback.Processed := not Callback."Code".HasValue();
        Callback.Outcome := "OAuth Callback Outcome"::Declined;
        if Callback."Code".HasValue() then begin
            Callback.Outcome := "OAuth Callback Outcome"::Waiting;
            // If the relay started the flow, it sends the verifier with the code.
            if Callback."Code Verifier" = '' then
                Callback."Code Verifier" := PendingState."Code Verifier";
            Clear(PendingState."Code Verifier");
        end;

        PendingState.Used := true;
        PendingState."State Hash" := Callback."State Hash";
        PendingState.Outcome := Callback.Outcome;
        PendingState.Modify();
    end;

    /// <summary>
    /// Shows the outcome of a callback in its flow, to the person who started it.
    /// </summary>
    procedure Tell(Callback: Record "OAuth Callback")
    var
        PendingState: Record "OAuth Pending State";
        State: Codeunit "OAuth State";
    begin
        PendingState.ReadIsolation := IsolationLevel::UpdLock;
        if not PendingState.Get(State.FlowNameOf(Callback."State")) then
            exit;
        PendingState.Outcome := Callback.Outcome;
        PendingState.Modify();
    end;

    /// <summary>
    /// Deletes the flows that ended or expired a day ago. A used one is needed until it has expired: its state could be
    /// used again when the callback has been deleted.
    /// </summary>
    procedure Purge()
    var
        PendingState: Record "OAuth Pending State";
    begin
        PendingState.SetFilter("Expires At", '<%1', CurrentDateTime() - 24 * 60 * 60 * 1000);
        PendingState.DeleteAll();
    end;

    local procedure ReceivedAt(Callback: Record "OAuth Callback"): DateTime
    begin
        // The relay may have held the callback, so the time that counts is when it received it.
        if Callback."Received At" = 0DT then
            exit(CurrentDateTime());
        exit(Callback."Received At");
    end;

    local procedure LeewayMilliseconds(): Integer
    begin
        // The clock skew that the relay tolerates.
        exit(60000);
    end;
}
