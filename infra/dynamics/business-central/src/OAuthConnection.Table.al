/// <summary>
/// The connections: one provider, one redirect URI at the relay. The secrets are in isolated storage.
/// </summary>
table 50102 "OAuth Connection"
{
    Caption = 'OAuth Connection';
    DataClassification = CustomerContent;
    Extensible = false;
    LookupPageId = "OAuth Connections";
    DrillDownPageId = "OAuth Connections";

    fields
    {
        field(1; Name; Text[50])
        {
            Caption = 'Name';
            NotBlank = true;
        }
        field(2; "Authorization Endpoint"; Text[2048])
        {
            Caption = 'Authorization Endpoint';
            ExtendedDatatype = URL;

            trigger OnValidate()
            begin
                TestHttps(Rec."Authorization Endpoint");
            end;
        }
        field(3; "Token Endpoint"; Text[2048])
        {
            Caption = 'Token Endpoint';
            ExtendedDatatype = URL;

            trigger OnValidate()
            begin
                TestHttps(Rec."Token Endpoint");
            end;
        }
        field(4; "Redirect URI"; Text[2048])
        {
            Caption = 'Redirect URI';
            ExtendedDatatype = URL;

            trigger OnValidate()
            begin
                TestHttps(Rec."Redirect URI");
            end;
        }
        field(5; "Relay Start URL"; Text[2048])
        {
            Caption = 'Start at the Relay (address of /authorize)';
            ExtendedDatatype = URL;

            trigger OnValidate()
            begin
                TestHttps(Rec."Relay Start URL");
            end;
        }
        field(6; "Client ID"; Text[250])
        {
            Caption = 'Client ID';
        }
        field(7; Scope; Text[2048])
        {
            Caption = 'Scope';
        }
        field(8; "Secret In Header"; Boolean)
        {
            Caption = 'Send the Secret in the Header';
        }
        field(9; "Key ID"; Text[32])
        {
            Caption = 'Key ID (kid)';
        }
        field(10; "Token Expires At"; DateTime)
        {
            Caption = 'Token Expires At';
            Editable = false;
        }
        field(11; "Needs Consent"; Boolean)
        {
            Caption = 'Needs Consent';
            Editable = false;
            InitValue = true;
        }
    }

    keys
    {
        key(PK; Name)
        {
            Clustered = true;
        }
    }

    var
        HttpsExpectedErr: Label 'The address must begin with https://';

    local procedure TestHttps(Address: Text)
    begin
        if (Address <> '') and not Address.ToLower().StartsWith('https://') then
            Error(HttpsExpectedErr);
    end;
}
