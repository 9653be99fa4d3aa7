/// <summary>
/// Requests tokens from a provider's token endpoint (RFC 6749, sections 4.1.3 and 6).
/// </summary>
/// <remarks>
/// No code, verifier, secret or token may reach a message or the telemetry: errors here do not quote responses.
/// </remarks>
codeunit 50104 "OAuth Token Client"
{
    Access = Internal;

    /// <summary>
    /// Returns whether tokens can be requested and stored for a connection: nothing is sent.
    /// </summary>
    [NonDebuggable]
    procedure IsReady(Connection: Record "OAuth Connection"): Boolean
    var
        Secrets: Codeunit "OAuth Secrets";
    begin
        if not IsHttps(Connection) then
            exit(false);
        if Secrets.Get(Connection.SystemId, Secrets.ClientSecretKind()) = '' then
            exit(false);
        exit(Secrets.CanStore(Connection.SystemId));
    end;

    /// <summary>
    /// Returns whether the endpoint answers a request without code and secret as RFC 6749, section 5.2, has it.
    /// </summary>
    /// <remarks>
    /// HttpClient follows redirects, and would take the secret along. A redirect that turns the POST into a GET ends in
    /// another answer; one that keeps it (307, 308) and leads to another token endpoint cannot be told apart here.
    /// </remarks>
    procedure AnswersAsTokenEndpoint(Connection: Record "OAuth Connection"): Boolean
    var
        Answer: JsonObject;
        Form: Dictionary of [Text, Text];
        AnswerText: Text;
        Status: Integer;
    begin
        Form.Add('grant_type', 'authorization_code');
        if not Post(Connection, Form, '', Status, AnswerText) then
            exit(false);
        if (Status < 400) or (Status > 499) then
            exit(false);
        if not Answer.ReadFrom(AnswerText) then
            exit(false);
        exit(Member(Answer, 'error') <> '');
    end;

    /// <summary>
    /// Redeems an authorization code. A code can be redeemed once.
    /// </summary>
    /// <param name="Connection">The connection.</param>
    /// <param name="CodeText">The code, decoded, as the relay delivered it.</param>
    /// <param name="RedirectUri">The redirect URI of the authorization request, exactly.</param>
    /// <param name="CodeVerifier">The code verifier of the flow, or an empty text.</param>
    /// <param name="AnswerText">The provider's answer.</param>
    /// <returns>What it means.</returns>
    [NonDebuggable]
    procedure Redeem(Connection: Record "OAuth Connection"; CodeText: Text; RedirectUri: Text; CodeVerifier: Text; var AnswerText: Text): Enum "OAuth Verdict"
    var
        Form: Dictionary of [Text, Text];
    begin
        Form.Add('grant_type', 'authorization_code');
        Form.Add('code', CodeText);
        Form.Add('redirect_uri', RedirectUri);
        if CodeVerifier <> '' then
            Form.Add('code_verifier', CodeVerifier);
        exit(Send(Connection, Form, AnswerText));
    end;

    /// <summary>
    /// Gets a new access token. Many providers replace the refresh token with each use.
    /// </summary>
    [NonDebuggable]
    procedure Refresh(Connection: Record "OAuth Connection"; RefreshToken: Text; var AnswerText: Text): Enum "OAuth Verdict"
    var
        Form: Dictionary of [Text, Text];
    begin
        Form.Add('grant_type', 'refresh_token');
        Form.Add('refresh_token', RefreshToken);
        exit(Send(Connection, Form, AnswerText));
    end;

    [NonDebuggable]
    local procedure Send(Connection: Record "OAuth Connection"; Form: Dictionary of [Text, Text]; var AnswerText: Text): Enum "OAuth Verdict"
    var
        Authorization: Text;
        Status: Integer;
    begin
        if not IsHttps(Connection) then
            exit("OAuth Verdict"::NothingSent);
        Authorization := Authenticate(Connection, Form);
        if Post(Connection, Form, Authorization, Status, AnswerText) then
            exit(Judge(Status, AnswerText));
        if Status = Blocked() then
            exit("OAuth Verdict"::NothingSent);
        exit("OAuth Verdict"::Unreachable);
    end;

    [NonDebuggable]
    local procedure Post(Connection: Record "OAuth Connection"; Form: Dictionary of [Text, Text]; Authorization: Text; var Status: Integer; var AnswerText: Text): Boolean
    var
        Client: HttpClient;
        Content: HttpContent;
        Headers: HttpHeaders;
        Response: HttpResponseMessage;
        Header: SecretText;
    begin
        Content.WriteFrom(Encode(Form));
        Content.GetHeaders(Headers);
        Headers.Remove('Content-Type');
        Headers.Add('Content-Type', 'application/x-www-form-urlencoded');
        // Without it GitHub answers as a form.
        Client.DefaultRequestHeaders().Add('Accept', 'application/json');
        if Authorization <> '' then begin
            Header := Authorization;
            Client.DefaultRequestHeaders().Add('Authorization', Header);
        end;
        Client.Timeout(30000);

        if not Client.Post(Connection."Token Endpoint", Content, Response) then begin
            if Response.IsBlockedByEnvironment() then
                Status := Blocked();
            exit(false);
        end;
        Status := Response.HttpStatusCode();
        exit(Response.Content().ReadAs(AnswerText));
    end;

    /// <summary>
    /// Returns what an answer means.
    /// </summary>
    [NonDebuggable]
    local procedure Judge(Status: Integer; AnswerText: Text): Enum "OAuth Verdict"
    var
        Answer: JsonObject;
        ErrorCode: Text;
    begin
        if Answer.ReadFrom(AnswerText) then
            ErrorCode := Member(Answer, 'error');
        if Status in [429, 503] then
            exit("OAuth Verdict"::Again);
        if (Status < 200) or (Status in [300 .. 399, 408]) or (Status > 499) then
            exit("OAuth Verdict"::Unreachable);
        if ErrorCode in ['invalid_client', 'unauthorized_client'] then
            exit("OAuth Verdict"::NotSetUp);
        if (Status > 399) or (ErrorCode <> '') then
            exit("OAuth Verdict"::Refused);
        if Member(Answer, 'access_token') = '' then
            exit("OAuth Verdict"::Unreachable);
        exit("OAuth Verdict"::Tokens);
    end;

    /// <summary>
    /// Returns a member that is a string; an empty text for every other.
    /// </summary>
    [NonDebuggable]
    procedure Member(Answer: JsonObject; Name: Text): Text
    var
        Value: JsonToken;
        Json: Text;
    begin
        if not Answer.Get(Name, Value) then
            exit('');
        Value.WriteTo(Json);
        if not Json.StartsWith('"') then
            exit('');
        exit(Value.AsValue().AsText());
    end;

    /// <summary>
    /// Returns when the token of an answer expires, or no time where the provider does not say.
    /// </summary>
    [NonDebuggable]
    procedure ExpiresAt(Answer: JsonObject; ObtainedAt: DateTime): DateTime
    var
        Value: JsonToken;
        Life: Duration;
        Milliseconds: BigInteger;
        Seconds: Decimal;
    begin
        if not Answer.Get('expires_in', Value) then
            exit(0DT);
        if not Value.IsValue() then
            exit(0DT);
        if Value.AsValue().IsNull() then
            exit(0DT);
        if not Evaluate(Seconds, Value.AsValue().AsText(), 9) then
            exit(0DT);
        if Seconds < 0 then
            Seconds := 0;
        if Seconds > LongestSeconds() then
            Seconds := LongestSeconds();
        Milliseconds := Round(Seconds, 1);
        Milliseconds := Milliseconds * 1000;
        Life := Milliseconds;
        exit(ObtainedAt + Life);
    end;

    local procedure LongestSeconds(): Integer
    begin
        // Ten years.
        exit(315360000);
    end;

    local procedure Blocked(): Integer
    begin
        exit(-1);
    end;

    local procedure IsHttps(Connection: Record "OAuth Connection"): Boolean
    begin
        exit(Connection."Token Endpoint".ToLower().StartsWith('https://'));
    end;

    /// <summary>
    /// Adds the client's credentials (RFC 6749, section 2.3.1) to the form, or returns them for the header.
    /// </summary>
    [NonDebuggable]
    local procedure Authenticate(Connection: Record "OAuth Connection"; var Form: Dictionary of [Text, Text]): Text
    var
        Base64Convert: Codeunit "Base64 Convert";
        Secrets: Codeunit "OAuth Secrets";
        Uri: Codeunit Uri;
        ClientSecret: Text;
    begin
        ClientSecret := Secrets.Get(Connection.SystemId, Secrets.ClientSecretKind());
        if Connection."Secret In Header" then
            exit('Basic ' + Base64Convert.ToBase64(Uri.EscapeDataString(Connection."Client ID") + ':' + Uri.EscapeDataString(ClientSecret)));
        Form.Add('client_id', Connection."Client ID");
        Form.Add('client_secret', ClientSecret);
    end;

    /// <summary>
    /// Returns the form. Each name and value is encoded by itself, so a + or an ampersand in a code is preserved.
    /// </summary>
    [NonDebuggable]
    local procedure Encode(Form: Dictionary of [Text, Text]): SecretText
    var
        Uri: Codeunit Uri;
        Builder: TextBuilder;
        Name: Text;
    begin
        foreach Name in Form.Keys() do begin
            if Builder.Length() > 0 then
                Builder.Append('&');
            Builder.Append(Uri.EscapeDataString(Name));
            Builder.Append('=');
            Builder.Append(Uri.EscapeDataString(Form.Get(Name)));
        end;
        exit(Builder.ToText());
    end;
}
