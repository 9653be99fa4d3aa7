/// <summary>
/// The connections.
/// </summary>
page 50102 "OAuth Connections"
{
    PageType = List;
    ApplicationArea = All;
    UsageCategory = Administration;
    Caption = 'OAuth Connections';
    SourceTable = "OAuth Connection";
    CardPageId = "OAuth Connection Card";
    Editable = false;
    Extensible = false;

    layout
    {
        area(Content)
        {
            repeater(Connections)
            {
                field(Name; Rec.Name)
                {
                    ToolTip = 'Specifies the name of the connection at the relay.';
                }
                field("Needs Consent"; Rec."Needs Consent")
                {
                    ToolTip = 'Specifies whether somebody has to connect.';
                }
                field("Token Expires At"; Rec."Token Expires At")
                {
                    ToolTip = 'Specifies when the access token ends its life. It is refreshed when it is asked for.';
                }
            }
        }
    }
}
