/// <summary>
/// Mints and parses states and tickets for the relay. docs/minting.md of the relay has the format.
/// </summary>
codeunit 50101 "OAuth State"
{
    Access = Internal;
    InherentEntitlements = X;
    InherentPermissions = X;

    /// <summary>
    /// Returns a new name for one flow: the 122 random bits of a GUID as 32 hex digits.
    /// </summary>
    procedure NewFlowName(): Text[64]
    begin
        exit(LowerCase(DelChr(Format(CreateGuid()), '=', '{}-')));
    end;

    /// <summary>
    /// Returns a new code verifier (RFC 7636): 64 hex digits of two GUIDs.
    /// </summary>
    procedure NewCodeVerifier(): Text[128]
    begin
        exit(NewFlowName() + NewFlowName());
    end;

    /// <summary>
    /// Returns the S256 challenge of a code verifier (RFC 7636, section 4.2).
    /// </summary>
    procedure Challenge(CodeVerifier: Text): Text
    var
        CryptographyManagement: Codeunit "Cryptography Management";
        HashAlgorithm: Option MD5,SHA1,SHA256,SHA384,SHA512;
    begin
        exit(ToUrlAlphabet(CryptographyManagement.GenerateHashAsBase64String(CodeVerifier, HashAlgorithm::SHA256)));
    end;

    /// <summary>
    /// Returns the SHA-256 of a state as 64 hex digits in lower case: the relay's {state_hash}.
    /// </summary>
    procedure Hash(State: Text): Text[64]
    var
        CryptographyManagement: Codeunit "Cryptography Management";
        HashAlgorithm: Option MD5,SHA1,SHA256,SHA384,SHA512;
    begin
        exit(LowerCase(CryptographyManagement.GenerateHash(State, HashAlgorithm::SHA256)));
    end;

    /// <summary>
    /// Returns a state for a flow that is started here.
    /// </summary>
    procedure MintState(Connection: Record "OAuth Connection"; FlowName: Text; Seconds: Integer): Text
    begin
        exit(Mint('callback:' + Connection.Name, Connection, FlowName, Seconds));
    end;

    /// <summary>
    /// Returns a ticket for a flow that the relay is to start.
    /// </summary>
    procedure MintTicket(Connection: Record "OAuth Connection"; FlowName: Text; Seconds: Integer): Text
    begin
        exit(Mint('authorize:' + Connection.Name, Connection, FlowName, Seconds));
    end;

    /// <summary>
    /// Returns the jti of a state that the relay has delivered, or an empty text. The signature is not checked.
    /// </summary>
    procedure FlowNameOf(State: Text): Text[64]
    var
        Base64Convert: Codeunit "Base64 Convert";
        Claims: JsonObject;
        Jti: JsonToken;
        Parts: List of [Text];
        Payload: Text;
    begin
        Parts := State.Split('.');
        if Parts.Count() <> 3 then
            exit('');

        Payload := ConvertStr(Parts.Get(2), '-_', '+/');
        while StrLen(Payload) mod 4 <> 0 do
            Payload += '=';
        if not Claims.ReadFrom(Base64Convert.FromBase64(Payload)) then
            exit('');
        if not Claims.Get('jti', Jti) then
            exit('');
        exit(CopyStr(Jti.AsValue().AsText(), 1, 64));
    end;

    [NonDebuggable]
    local procedure Mint(Audience: Text; Connection: Record "OAuth Connection"; FlowName: Text; Seconds: Integer): Text
    var
        Base64Convert: Codeunit "Base64 Convert";
        CryptographyManagement: Codeunit "Cryptography Management";
        Secrets: Codeunit "OAuth Secrets";
        UnixTimestamp: Codeunit "Unix Timestamp";
        HashAlgorithm: Option HMACMD5,HMACSHA1,HMACSHA256,HMACSHA384,HMACSHA512;
        Header: JsonObject;
        Claims: JsonObject;
        HeaderText: Text;
        ClaimsText: Text;
        StateKey: Text;
        Signed: Text;
    begin
        Header.Add('alg', 'HS256');
        Header.Add('typ', 'JWT');
        Header.Add('kid', Connection."Key ID");
        Header.WriteTo(HeaderText);
        Claims.Add('aud', Audience);
        Claims.Add('exp', UnixTimestamp.CreateTimestampSeconds() + Seconds);
        Claims.Add('jti', FlowName);
        if Connection."Environment Name" <> '' then
            Claims.Add('env', LowerCase(Connection."Environment Name"));
        Claims.WriteTo(ClaimsText);
        Signed := ToUrlAlphabet(Base64Convert.ToBase64(HeaderText)) + '.' + ToUrlAlphabet(Base64Convert.ToBase64(ClaimsText));

        // A key has 43 characters in base64url; one = makes it base64.
        StateKey := ConvertStr(DelChr(Secrets.Get(Connection.SystemId, Secrets.StateKeyKind()), '=', '='), '-_', '+/') + '=';
        exit(Signed + '.' + ToUrlAlphabet(CryptographyManagement.GenerateBase64KeyedHashAsBase64String(Signed, StateKey, HashAlgorithm::HMACSHA256)));
    end;

    local procedure ToUrlAlphabet(Base64: Text): Text
    begin
        exit(ConvertStr(DelChr(Base64, '=', '='), '+/', '-_'));
    end;
}
