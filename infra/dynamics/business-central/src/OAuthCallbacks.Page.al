/// <summary>
/// The delivered callbacks and their outcomes. No secret is shown.
/// </summary>
page 50101 "OAuth Callbacks"
{
    PageType = List;
    ApplicationArea = All;
    UsageCategory = Lists;
    Caption = 'OAuth Callbacks';
    SourceTable = "OAuth Callback";
    SourceTableView = sorting("Received At") order(descending);
    Editable = false;
    InsertAllowed = false;
    Extensible = false;

    layout
    {
        area(Content)
        {
            repeater(Callbacks)
            {
                field("Received At"; Rec."Received At")
                {
                    ToolTip = 'Specifies when the browser came back to the relay.';
                }
                field("Connection Name"; Rec."Connection Name")
                {
                    ToolTip = 'Specifies the connection.';
                }
                field(Outcome; Rec.Outcome)
                {
                    ToolTip = 'Specifies how the callback ended.';
                }
                field("Error"; Rec."Error")
                {
                    ToolTip = 'Specifies what the provider answered in place of a code.';
                }
                field("Error Description"; Rec."Error Description")
                {
                    ToolTip = 'Specifies the provider''s own words.';
                }
                field("Relay Reference"; Rec."Relay Reference")
                {
                    ToolTip = 'Specifies the reference in the log of the relay.';
                }
            }
        }
    }

    actions
    {
        area(Processing)
        {
            action(Redeem)
            {
                Caption = 'Redeem Now';
                ToolTip = 'Exchange the codes that wait for tokens.';
                Image = Approve;
                RunObject = codeunit "OAuth Redeem Job";
            }
        }
    }
}
