/// <summary>
/// The API that the relay posts to. It only inserts, and never returns the code or its verifier.
/// </summary>
page 50100 "OAuth Callback API"
{
    PageType = API;
    Caption = 'oauthCallback', Locked = true;
    APIPublisher = 'oauthRelay';
    APIGroup = 'inbox';
    APIVersion = 'v1.0';
    EntityName = 'oauthCallback';
    EntitySetName = 'oauthCallbacks';
    EntityCaption = 'OAuth Callback';
    EntitySetCaption = 'OAuth Callbacks';
    SourceTable = "OAuth Callback";
    ODataKeyFields = SystemId;
    DelayedInsert = true;
    InsertAllowed = true;
    ModifyAllowed = false;
    DeleteAllowed = false;
    Extensible = false;
    Permissions = tabledata "OAuth Callback" = ri;

    layout
    {
        area(Content)
        {
            repeater(Callback)
            {
                field(id; Rec.SystemId)
                {
                    Caption = 'Id';
                    Editable = false;
                }
                field(stateHash; Rec."State Hash")
                {
                    Caption = 'State Hash';
                }
                field("state"; Rec."State")
                {
                    Caption = 'State';
                }
                // A variable, because it has no maximum length and is empty in responses.
                field("code"; CodeText)
                {
                    Caption = 'Code';
                }
                field("error"; ErrorText)
                {
                    Caption = 'Error';
                }
                field(errorDescription; ErrorDescriptionText)
                {
                    Caption = 'Error Description';
                }
                field(issuer; IssuerText)
                {
                    Caption = 'Issuer';
                }
                field(connectionName; Rec."Connection Name")
                {
                    Caption = 'Connection Name';
                }
                field(codeVerifier; CodeVerifierText)
                {
                    Caption = 'Code Verifier';
                }
                field(redirectUri; Rec."Redirect URI")
                {
                    Caption = 'Redirect URI';
                }
                field(deliveryId; Rec."Delivery ID")
                {
                    Caption = 'Delivery ID';
                }
                field(relayReference; Rec."Relay Reference")
                {
                    Caption = 'Relay Reference';
                }
                field(flowName; Rec."Flow Name")
                {
                    Caption = 'Flow Name';
                }
                field(receivedAt; Rec."Received At")
                {
                    Caption = 'Received At';
                }
                field(expiresAt; Rec."Expires At")
                {
                    Caption = 'Expires At';
                }
            }
        }
    }

    var
        CodeText: Text;
        CodeVerifierText: Text[128];
        ErrorText: Text;
        ErrorDescriptionText: Text;
        IssuerText: Text;

    trigger OnInsertRecord(BelowxRec: Boolean): Boolean
    begin
        Rec.SetCode(CodeText);
        Rec."Code Verifier" := CodeVerifierText;

        // Texts for people: truncated, so that a long one does not refuse the callback.
        Rec."Error" := CopyStr(ErrorText, 1, MaxStrLen(Rec."Error"));
        Rec."Error Description" := CopyStr(ErrorDescriptionText, 1, MaxStrLen(Rec."Error Description"));
        Rec.Issuer := CopyStr(IssuerText, 1, MaxStrLen(Rec.Issuer));
        Rec.Insert(true);

        // The response contains the record, but must not contain these.
        Clear(CodeText);
        Clear(CodeVerifierText);
        exit(false);
    end;

    trigger OnAfterGetRecord()
    begin
        Clear(CodeText);
        Clear(CodeVerifierText);
        ErrorText := Rec."Error";
        ErrorDescriptionText := Rec."Error Description";
        IssuerText := Rec.Issuer;
    end;
}
