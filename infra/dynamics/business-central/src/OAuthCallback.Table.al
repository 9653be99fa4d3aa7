/// <summary>
/// The callbacks that the relay has delivered. The primary key makes each state unique.
/// </summary>
/// <remarks>
/// The key is the hash of the state: a key holds 900 bytes, which are 450 characters, and a state can have 1,024.
/// The code is a Blob, because a Text field holds 2,048 characters and codes can be longer.
/// </remarks>
table 50100 "OAuth Callback"
{
    Caption = 'OAuth Callback';
    DataClassification = CustomerContent;
    Extensible = false;
    LookupPageId = "OAuth Callbacks";
    DrillDownPageId = "OAuth Callbacks";

    fields
    {
        field(1; "State Hash"; Text[64])
        {
            Caption = 'State Hash';
            NotBlank = true;
        }
        field(2; "State"; Text[1024])
        {
            Caption = 'State';
        }
        field(3; "Code"; Blob)
        {
            Caption = 'Code';
        }
        field(4; "Error"; Text[2048])
        {
            Caption = 'Error';
        }
        field(5; "Error Description"; Text[2048])
        {
            Caption = 'Error Description';
        }
        field(6; Issuer; Text[2048])
        {
            Caption = 'Issuer';
        }
        field(7; "Connection Name"; Text[50])
        {
            Caption = 'Connection Name';
            TableRelation = "OAuth Connection";
            ValidateTableRelation = false;
        }
        field(8; "Code Verifier"; Text[128])
        {
            Caption = 'Code Verifier';
        }
        field(9; "Redirect URI"; Text[2048])
        {
            Caption = 'Redirect URI';
        }
        field(10; "Delivery ID"; Text[32])
        {
            Caption = 'Delivery ID';
        }
        field(11; "Relay Reference"; Text[16])
        {
            Caption = 'Relay Reference';
        }
        field(12; "Received At"; DateTime)
        {
            Caption = 'Received At';
        }
        field(13; "Expires At"; DateTime)
        {
            Caption = 'Expires At';
        }
        field(14; Processed; Boolean)
        {
            Caption = 'Processed';
        }
        field(15; Outcome; Enum "OAuth Callback Outcome")
        {
            Caption = 'Outcome';
        }
        field(16; "Claimed At"; DateTime)
        {
            Caption = 'Claimed At';
        }
        field(17; "Flow Name"; Text[64])
        {
            Caption = 'Flow Name';
        }
    }

    keys
    {
        key(PK; "State Hash")
        {
            Clustered = true;
        }
        key(Waiting; Processed)
        {
        }
        key(Received; "Received At")
        {
        }
    }

    trigger OnInsert()
    var
        PendingStates: Codeunit "OAuth Pending States";
    begin
        PendingStates.Take(Rec);
    end;

    /// <summary>
    /// Puts the code into the record.
    /// </summary>
    /// <param name="Value">The code, as the relay delivered it.</param>
    internal procedure SetCode(Value: Text)
    var
        CodeStream: OutStream;
    begin
        Clear(Rec."Code");
        // A Blob into which an empty text was written might count as one with a value.
        if Value = '' then
            exit;
        Rec."Code".CreateOutStream(CodeStream, TextEncoding::UTF8);
        CodeStream.WriteText(Value);
    end;

    /// <summary>
    /// Returns the code, or an empty text.
    /// </summary>
    [NonDebuggable]
    internal procedure GetCode() Value: Text
    var
        CodeStream: InStream;
    begin
        Rec.CalcFields("Code");
        Rec."Code".CreateInStream(CodeStream, TextEncoding::UTF8);
        CodeStream.ReadText(Value);
    end;
}
