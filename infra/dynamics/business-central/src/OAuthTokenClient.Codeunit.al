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
    /// Redeems an authorization code. A code can be redeemed once.
    /// </summary>
    /// <param name="Connection">The connection.</param>
    /// <param name="CodeText">The code, decoded, as the relay delivered it.</param>
    /// <param name="RedirectUri">The redirect URI of the authorization request, exactly.</param>
    /// <param name="CodeVerifier">The code verifier of the flow, or an empty text.</param>
    /// <param name="Answer">The provider's answer.</param>
    /// <returns>Whether the provider answered at all.</returns>
    [NonDebuggable]
    procedure Redeem(Connection: Record "OAuth Connection"; CodeText: Text; RedirectUri: Text; CodeVerifier: Text; var Answer: JsonObject): Boolean
    var
        Form: Dictionary of [Text, Text];
    begin
        Form.Add('grant_type', 'authorization_code');
        Form.Add('code', CodeText);
        Form.Add('redirect_uri', RedirectUri);
        if CodeVerifier <> '' then
            Form.Add('code_verifier', CodeVerifier);
        exit(Send(Connection, Form, Answer));
    end;

    /// <summary>
    /// Gets a new access token. Many providers replace the refresh token with each use.
    /// </summary>
    [NonDebuggable]
    procedure Refresh(Connection: Record "OAuth Connection"; RefreshToken: Text; var Answer: JsonObject): Boolean
    var
        Form: Dictionary of [Text, Text];
    begin
        Form.Add('grant_type', 'refresh_token');
        Form.Add('refresh_token', RefreshToken);
        exit(Send(Connection, Form, Answer));
    end;

    [NonDebuggable]
    local procedure Send(Connection: Record "OAuth Connection"; Form: Dictionary of [Text, Text]; var Answer: JsonObject): Boolean
    var
        Client: HttpClient;
        Content: HttpContent;
        Headers: HttpHeaders;
        Response: HttpResponseMessage;
        Body: Text;
    begin
        Authenticate(Connection, Client, Form);
        Content.WriteFrom(Encode(Form));
        Content.GetHeaders(Headers);
        Headers.Remove('Content-Type');
        Headers.Add('Content-Type', 'application/x-www-form-urlencoded');
        Client.Timeout(30000);

        if not Client.Post(Connection."Token Endpoint", Content, Response) then
            exit(false);
        Response.Content().ReadAs(Body);
        exit(Answer.ReadFrom(Body));
    end;

    /// <summary>
    /// Adds the client's credentials (RFC 6749, section 2.3.1), to the header or the form.
    /// </summary>
    [NonDebuggable]
    local procedure Authenticate(Connection: Record "OAuth Connection"; var Client: HttpClient; var Form: Dictionary of [Text, Text])
    var
        Base64Convert: Codeunit "Base64 Convert";
        Secrets: Codeunit "OAuth Secrets";
        Uri: Codeunit Uri;
        Authorization: SecretText;
        ClientSecret: Text;
    begin
        ClientSecret := Secrets.Get(Connection.Name, Secrets.ClientSecretKind());
        if Connection."Secret In Header" then begin
            Authorization := 'Basic ' + Base64Convert.ToBase64(Uri.EscapeDataString(Connection."Client ID") + ':' + Uri.EscapeDataString(ClientSecret));
            Client.DefaultRequestHeaders().Add('Authorization', Authorization);
        end else begin
            Form.Add('client_id', Connection."Client ID");
            Form.Add('client_secret', ClientSecret);
        end;
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
