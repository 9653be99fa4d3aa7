/// <summary>
/// Deletes flows that ended a day ago, and callbacks that were completed a month ago.
/// </summary>
codeunit 50109 "OAuth Purge"
{
    Access = Internal;

    trigger OnRun()
    var
        Callback: Record "OAuth Callback";
        PendingStates: Codeunit "OAuth Pending States";
    begin
        PendingStates.Purge();
        Callback.SetRange(Processed, true);
        Callback.SetFilter(SystemCreatedAt, '<%1', CreateDateTime(CalcDate('<-30D>', Today()), 0T));
        Callback.DeleteAll();
    end;
}
