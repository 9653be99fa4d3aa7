/// <summary>
/// The flows that were started here, and what became of each. Each accepts one callback.
/// </summary>
table 50101 "OAuth Pending State"
{
    Caption = 'OAuth Pending State';
    DataClassification = CustomerContent;
    Extensible = false;

    fields
    {
        field(1; "Flow Name"; Text[64])
        {
            Caption = 'Flow Name';
            NotBlank = true;
        }
        field(2; "Connection Name"; Text[50])
        {
            Caption = 'Connection Name';
        }
        field(3; "State Hash"; Text[64])
        {
            Caption = 'State Hash';
        }
        field(4; "Code Verifier"; Text[128])
        {
            Caption = 'Code Verifier';
        }
        field(5; "Expires At"; DateTime)
        {
            Caption = 'Expires At';
        }
        field(6; Used; Boolean)
        {
            Caption = 'Used';
        }
        field(7; Outcome; Enum "OAuth Callback Outcome")
        {
            Caption = 'Outcome';
        }
        field(8; "Started By"; Code[50])
        {
            Caption = 'Started By';
            DataClassification = EndUserIdentifiableInformation;
        }
    }

    keys
    {
        key(PK; "Flow Name")
        {
            Clustered = true;
        }
        key(Expiry; "Expires At")
        {
        }
    }
}
