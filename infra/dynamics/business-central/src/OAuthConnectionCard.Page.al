/// <summary>
/// One connection: its settings, its two secrets, and the action that connects.
/// </summary>
page 50103 "OAuth Connection Card"
{
    PageType = Card;
    ApplicationArea = All;
    Caption = 'OAuth Connection';
    SourceTable = "OAuth Connection";
    Extensible = false;

    layout
    {
        area(Content)
        {
            group(General)
            {
                Caption = 'General';

                field(Name; Rec.Name)
                {
                    ToolTip = 'Specifies the name of the connection at the relay: default for /callback, xero for /callback/xero.';
                }
                field("Redirect URI"; Rec."Redirect URI")
                {
                    ToolTip = 'Specifies the address of the callback, exactly as it is registered at the provider.';
                }
                field("Relay Start URL"; Rec."Relay Start URL")
                {
                    ToolTip = 'Specifies the address of /authorize at the relay, when the relay is to start the flow. Leave it empty to start here.';
                }
                field("Needs Consent"; Rec."Needs Consent")
                {
                    ToolTip = 'Specifies whether somebody has to connect.';
                }
            }
            group(Provider)
            {
                Caption = 'Provider';

                field("Authorization Endpoint"; Rec."Authorization Endpoint")
                {
                    ToolTip = 'Specifies the address where people sign in. A query that it has stays.';
                }
                field("Token Endpoint"; Rec."Token Endpoint")
                {
                    ToolTip = 'Specifies the address where codes are redeemed.';
                }
                field("Client ID"; Rec."Client ID")
                {
                    ToolTip = 'Specifies the client ID that the provider gave.';
                }
                field(ClientSecret; ClientSecret)
                {
                    Caption = 'Client Secret';
                    ToolTip = 'Specifies the client secret that the provider gave. It is stored encrypted, and never shown.';
                    ExtendedDatatype = Masked;

                    trigger OnValidate()
                    begin
                        Secrets.Set(Rec.SystemId, Secrets.ClientSecretKind(), ClientSecret);
                        Clear(ClientSecret);
                    end;
                }
                field("Secret In Header"; Rec."Secret In Header")
                {
                    ToolTip = 'Specifies whether the secret goes into the header (client_secret_basic) or into the form (client_secret_post).';
                }
                field(Scope; Rec.Scope)
                {
                    ToolTip = 'Specifies the scopes to ask for, with a space between two.';
                }
            }
            group(Environment)
            {
                Caption = 'Environment';

                field("Environment Name"; Rec."Environment Name")
                {
                    ToolTip = 'Specifies the name of this environment in ENVIRONMENTS of the relay. Leave it empty when the relay serves one environment.';
                }
                field("Environment Address"; Rec."Environment Address")
                {
                    ToolTip = 'Specifies where the connection was set up. In a copy of the database it differs from the address of the browser, and nothing is started.';
                }
            }
            group(StateKeyGroup)
            {
                Caption = 'State';

                field("Key ID"; Rec."Key ID")
                {
                    ToolTip = 'Specifies the key ID, the part before the colon in STATE_KEYS of the relay.';
                }
                field(StateKey; StateKey)
                {
                    Caption = 'State Key';
                    ToolTip = 'Specifies the key, the part behind the colon in STATE_KEYS of the relay. It is stored encrypted, and never shown.';
                    ExtendedDatatype = Masked;

                    trigger OnValidate()
                    begin
                        Secrets.Set(Rec.SystemId, Secrets.StateKeyKind(), StateKey);
                        Clear(StateKey);
                    end;
                }
            }
        }
    }

    actions
    {
        area(Processing)
        {
            action(Connect)
            {
                Caption = 'Connect';
                ToolTip = 'Sign in at the provider and give consent.';
                Image = Web;

                trigger OnAction()
                var
                    Flow: Codeunit "OAuth Flow";
                begin
                    Flow.Start(Rec);
                end;
            }
        }
        area(Promoted)
        {
            actionref(ConnectPromoted; Connect)
            {
            }
        }
    }

    var
        Secrets: Codeunit "OAuth Secrets";
        [NonDebuggable]
        ClientSecret: Text;
        [NonDebuggable]
        StateKey: Text;
}
