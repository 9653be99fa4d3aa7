/// <summary>
/// The flows that were started, and what became of each. No secret is shown.
/// </summary>
page 50104 "OAuth Flows"
{
    PageType = List;
    ApplicationArea = All;
    UsageCategory = Lists;
    Caption = 'OAuth Flows';
    SourceTable = "OAuth Pending State";
    SourceTableView = sorting("Expires At") order(descending);
    Editable = false;
    InsertAllowed = false;
    Extensible = false;

    layout
    {
        area(Content)
        {
            repeater(Flows)
            {
                field("Connection Name"; Rec."Connection Name")
                {
                    ToolTip = 'Specifies the connection.';
                }
                field("Started By"; Rec."Started By")
                {
                    ToolTip = 'Specifies who chose Connect.';
                }
                field(StartedAt; Rec.SystemCreatedAt)
                {
                    Caption = 'Started At';
                    ToolTip = 'Specifies when.';
                }
                field(Outcome; Rec.Outcome)
                {
                    ToolTip = 'Specifies what became of it.';
                }
                field("Expires At"; Rec."Expires At")
                {
                    ToolTip = 'Specifies until when the person may come back. A flow that still waits after that was not finished.';
                }
            }
        }
    }
}
