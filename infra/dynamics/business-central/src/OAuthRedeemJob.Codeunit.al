/// <summary>
/// Advances the open callbacks. Run it as a job queue entry, every minute: codes expire within minutes.
/// </summary>
codeunit 50106 "OAuth Redeem Job"
{
    trigger OnRun()
    var
        Callback: Record "OAuth Callback";
        Open: List of [Text[64]];
        StateHash: Text[64];
    begin
        Callback.SetCurrentKey("Received At");
        Callback.SetRange(Processed, false);
        if Callback.FindSet() then
            repeat
                Open.Add(Callback."State Hash");
            until Callback.Next() = 0;

        // Each on its own: an error ends the run of one callback, and the record says how far it came.
        foreach StateHash in Open do
            if Callback.Get(StateHash) then
                if not Codeunit.Run(Codeunit::"OAuth Redemption", Callback) then
                    ClearLastError();
        if not Codeunit.Run(Codeunit::"OAuth Purge") then
            ClearLastError();
    end;
}
