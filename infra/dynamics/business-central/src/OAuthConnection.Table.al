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
        field(12; "Token Obtained At"; DateTime)
        {
            Caption = 'Token Obtained At';
            Editable = false;
        }
        field(13; "Leased Until"; DateTime)
        {
            Caption = 'Being Renewed Until';
            Editable = false;
        }
        field(14; Renewable; Boolean)
        {
            Caption = 'Renewable';
            Editable = false;
        }
        field(15; "Environment Name"; Code[64])
        {
            Caption = 'Name of This Environment';
            CharAllowed = 'AZ09--__';
        }
        field(16; "Environment Address"; Text[250])
        {
            Caption = 'Address of This Environment';
            ExtendedDatatype = URL;

            trigger OnValidate()
            begin
                TestHttps(Rec."Environment Address");
            end;
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
        AnotherEnvironmentErr: Label 'This connection was set up for another environment. Compare its environment address and name, correct them, and choose Connect again.';
        HttpsExpectedErr: Label 'The address must begin with https://';

    trigger OnInsert()
    begin
        Rec."Environment Address" := CopyStr(OwnAddress(), 1, MaxStrLen(Rec."Environment Address"));
    end;

    trigger OnDelete()
    var
        Secrets: Codeunit "OAuth Secrets";
    begin
        // The secrets belong to the SystemId: a rename keeps them.
        Secrets.DeleteAll(Rec.SystemId);
    end;

    /// <summary>
    /// Raises an error unless the connection was set up in this environment: the database may come from another one,
    /// whose name the states would have.
    /// </summary>
    internal procedure TestEnvironment()
    begin
        if Rec."Environment Address".ToLower() <> OwnAddress() then
            Error(AnotherEnvironmentErr);
    end;

    local procedure OwnAddress(): Text
    begin
        // What follows the question mark names the company.
        exit(GetUrl(ClientType::Web).Split('?').Get(1).ToLower());
    end;

    local procedure TestHttps(Address: Text)
    begin
        if (Address <> '') and not Address.ToLower().StartsWith('https://') then
            Error(HttpsExpectedErr);
    end;
}
