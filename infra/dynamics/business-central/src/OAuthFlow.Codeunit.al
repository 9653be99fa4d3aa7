/// <summary>
/// Starts a flow: stores its pending state, and opens the browser.
/// </summary>
codeunit 50103 "OAuth Flow"
{
    Access = Internal;

    var
        NotReadyErr: Label 'The connection %1 is not set up. It needs a token endpoint that begins with https:// and a client secret, and data encryption has to be on.', Comment = '%1 = name of the connection';
        NoTokenEndpointErr: Label 'The token endpoint of the connection %1 does not answer as one. Check its address (one that redirects is refused), and under Extension Management whether HttpClient requests are allowed.', Comment = '%1 = name of the connection';

    /// <summary>
    /// Starts a flow for a connection, here or at the relay.
    /// </summary>
    procedure Start(Connection: Record "OAuth Connection")
    var
        TokenClient: Codeunit "OAuth Token Client";
        Address: Text;
    begin
        Connection.TestEnvironment();
        if not TokenClient.IsReady(Connection) then
            Error(NotReadyErr, Connection.Name);
        if not TokenClient.AnswersAsTokenEndpoint(Connection) then
            Error(NoTokenEndpointErr, Connection.Name);
        if Connection."Relay Start URL" <> '' then
            Address := StartAtRelay(Connection)
        else
            Address := StartHere(Connection);

        // The callback may arrive before this action ends.
        Commit();
        Hyperlink(Address);
    end;

    local procedure StartHere(Connection: Record "OAuth Connection"): Text
    var
        PendingStates: Codeunit "OAuth Pending States";
        State: Codeunit "OAuth State";
        Parameters: Dictionary of [Text, Text];
        CodeVerifier: Text[128];
        FlowName: Text[64];
        StateText: Text;
    begin
        Connection.TestField("Authorization Endpoint");
        Connection.TestField("Redirect URI");
        Connection.TestField("Client ID");
        FlowName := State.NewFlowName();
        CodeVerifier := State.NewCodeVerifier();
        StateText := State.MintState(Connection, FlowName, StateSeconds());
        PendingStates.Remember(FlowName, Connection.Name, StateSeconds(), State.Hash(StateText), CodeVerifier);

        Parameters.Add('response_type', 'code');
        Parameters.Add('client_id', Connection."Client ID");
        Parameters.Add('redirect_uri', Connection."Redirect URI");
        if Connection.Scope <> '' then
            Parameters.Add('scope', Connection.Scope);
        Parameters.Add('state', StateText);
        Parameters.Add('code_challenge', State.Challenge(CodeVerifier));
        Parameters.Add('code_challenge_method', 'S256');
        exit(AddParameters(Connection."Authorization Endpoint", Parameters));
    end;

    local procedure StartAtRelay(Connection: Record "OAuth Connection"): Text
    var
        PendingStates: Codeunit "OAuth Pending States";
        State: Codeunit "OAuth State";
        Parameters: Dictionary of [Text, Text];
        FlowName: Text[64];
    begin
        FlowName := State.NewFlowName();
        PendingStates.Remember(FlowName, Connection.Name, TicketSeconds() + StateSeconds(), '', '');
        Parameters.Add('ticket', State.MintTicket(Connection, FlowName, TicketSeconds()));
        exit(AddParameters(Connection."Relay Start URL", Parameters));
    end;

    /// <summary>
    /// Appends parameters to an address, and keeps its query (RFC 6749, section 3.1).
    /// </summary>
    local procedure AddParameters(Endpoint: Text; Parameters: Dictionary of [Text, Text]) Address: Text
    var
        Uri: Codeunit Uri;
        Name: Text;
        Separator: Text[1];
    begin
        Address := Endpoint;
        Separator := '?';
        if Endpoint.Contains('?') then
            Separator := '&';
        foreach Name in Parameters.Keys() do begin
            Address += Separator + Uri.EscapeDataString(Name) + '=' + Uri.EscapeDataString(Parameters.Get(Name));
            Separator := '&';
        end;
    end;

    local procedure StateSeconds(): Integer
    begin
        exit(600);
    end;

    local procedure TicketSeconds(): Integer
    begin
        exit(120);
    end;
}
