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
        PendingState."Expires At" := CurrentDateTime() + Seconds * 1000;
        PendingState.Insert();
    end;

    /// <summary>
    /// Ends the flow that a callback belongs to, or raises an error: then the callback is not stored.
    /// </summary>
    /// <param name="Callback">The callback before it is stored.</param>
    [InherentPermissions(PermissionObjectType::TableData, Database::"OAuth Pending State", 'rm')]
    [InherentPermissions(PermissionObjectType::TableData, Database::"OAuth Callback", 'r')]
    procedure Take(var Callback: Record "OAuth Callback")
    var
        Stored: Record "OAuth Callback";
        PendingState: Record "OAuth Pending State";
        State: Codeunit "OAuth State";
    begin
        if Callback."State Hash" <> State.Hash(Callback."State") then
            Error(HashWrongErr);

        // The relay repeats a delivery whose answer was lost. The duplicate must fail at the primary key, which the
        // relay treats as success; an error raised here would count as a refusal.
        Stored.SetRange("State Hash", Callback."State Hash");
        if not Stored.IsEmpty() then
            exit;

        PendingState.ReadIsolation := IsolationLevel::UpdLock;
        if not PendingState.Get(State.FlowNameOf(Callback."State")) then
            Error(UnknownErr);
        if PendingState."Connection Name" <> Callback."Connection Name" then
            Error(UnknownErr);
        if not (PendingState."State Hash" in ['', Callback."State Hash"]) then
            Error(UnknownErr);
        if PendingState.Used then
            Error(UsedErr);
        if ReceivedAt(Callback) > PendingState."Expires At" + LeewayMilliseconds() then
            Error(ExpiredErr);

        PendingState.Used := true;
        PendingState."State Hash" := Callback."State Hash";
        PendingState.Modify();
    end;

    /// <summary>
    /// Returns the code verifier of a flow that was started here, or an empty text.
    /// </summary>
    procedure CodeVerifierOf(Callback: Record "OAuth Callback"): Text[128]
    var
        PendingState: Record "OAuth Pending State";
        State: Codeunit "OAuth State";
    begin
        if PendingState.Get(State.FlowNameOf(Callback."State")) then
            exit(PendingState."Code Verifier");
    end;

    /// <summary>
    /// Deletes the flows that ended or expired a day ago.
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
