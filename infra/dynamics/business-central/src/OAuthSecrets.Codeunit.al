/// <summary>
/// Keeps secrets in isolated storage, encrypted, for this extension in this company.
/// </summary>
/// <remarks>
/// A secret belongs to the SystemId of a record, so it follows a rename. SetEncrypted accepts 215 characters, and a
/// token has thousands: a secret is stored in pieces. The pieces of one value bear a name of their own, and one entry
/// says which name counts: a reader never mixes two values.
/// </remarks>
codeunit 50100 "OAuth Secrets"
{
    Access = Internal;

    var
        EncryptionErr: Label 'Data encryption is off. Turn it on under Data Encryption Management before secrets are stored.';

    /// <summary>
    /// Stores a secret and replaces the old one.
    /// </summary>
    /// <param name="Owner">The SystemId of the record that it belongs to.</param>
    /// <param name="Kind">Which of its secrets.</param>
    /// <param name="Value">The secret.</param>
    [NonDebuggable]
    procedure Set(Owner: Guid; Kind: Text; Value: Text)
    var
        OldEntry: Text;
        ValueName: Text;
        Piece: Integer;
    begin
        if not EncryptionEnabled() then
            Error(EncryptionErr);

        if not IsolatedStorage.Get(Entry(Owner, Kind), DataScope::Company, OldEntry) then
            OldEntry := '';
        ValueName := DelChr(Format(CreateGuid()), '=', '{}-');
        while Value <> '' do begin
            Piece += 1;
            IsolatedStorage.SetEncrypted(PieceKey(ValueName, Piece), CopyStr(Value, 1, PieceSize()), DataScope::Company);
            Value := CopyStr(Value, PieceSize() + 1);
        end;
        IsolatedStorage.SetEncrypted(Entry(Owner, Kind), ValueName + '/' + Format(Piece, 0, 9), DataScope::Company);
        DeletePieces(OldEntry);
    end;

    /// <summary>
    /// Returns a secret, or an empty text.
    /// </summary>
    [NonDebuggable]
    procedure Get(Owner: Guid; Kind: Text) Value: Text
    var
        Attempt: Integer;
        Found: Text;
    begin
        // The pieces are gone when another session has replaced the value since its entry was read.
        for Attempt := 1 to 3 do begin
            if not IsolatedStorage.Get(Entry(Owner, Kind), DataScope::Company, Found) then
                exit('');
            if GetPieces(Found, Value) then
                exit;
        end;
        exit('');
    end;

    /// <summary>
    /// Returns whether a secret can be stored now.
    /// </summary>
    procedure CanStore(Owner: Guid): Boolean
    begin
        if not EncryptionEnabled() then
            exit(false);
        exit(IsolatedStorage.SetEncrypted(Entry(Owner, 'Probe'), 'probe', DataScope::Company));
    end;

    /// <summary>
    /// Deletes all secrets of a record.
    /// </summary>
    procedure DeleteAll(Owner: Guid)
    begin
        Delete(Owner, ClientSecretKind());
        Delete(Owner, StateKeyKind());
        Delete(Owner, AccessTokenKind());
        Delete(Owner, RefreshTokenKind());
        Delete(Owner, HeldTokensKind());
        Delete(Owner, 'Probe');
    end;

    [NonDebuggable]
    local procedure GetPieces(Found: Text; var Value: Text): Boolean
    var
        Count: Integer;
        Part: Text;
        Piece: Integer;
    begin
        Value := '';
        Evaluate(Count, Found.Split('/').Get(2), 9);
        for Piece := 1 to Count do begin
            if not IsolatedStorage.Get(PieceKey(Found.Split('/').Get(1), Piece), DataScope::Company, Part) then
                exit(false);
            Value += Part;
        end;
        exit(true);
    end;

    local procedure Delete(Owner: Guid; Kind: Text)
    var
        Found: Text;
    begin
        if not IsolatedStorage.Get(Entry(Owner, Kind), DataScope::Company, Found) then
            exit;
        IsolatedStorage.Delete(Entry(Owner, Kind), DataScope::Company);
        DeletePieces(Found);
    end;

    local procedure DeletePieces(Found: Text)
    var
        Piece: Integer;
    begin
        if not Found.Contains('/') then
            exit;
        Piece := 1;
        while IsolatedStorage.Contains(PieceKey(Found.Split('/').Get(1), Piece), DataScope::Company) do begin
            IsolatedStorage.Delete(PieceKey(Found.Split('/').Get(1), Piece), DataScope::Company);
            Piece += 1;
        end;
    end;

    local procedure Entry(Owner: Guid; Kind: Text): Text
    begin
        exit(Format(Owner, 0, 9) + '/' + Kind);
    end;

    local procedure PieceKey(ValueName: Text; Piece: Integer): Text
    begin
        exit(ValueName + '/' + Format(Piece, 0, 9));
    end;

    local procedure PieceSize(): Integer
    begin
        exit(150);
    end;

    procedure ClientSecretKind(): Text
    begin
        exit('ClientSecret');
    end;

    procedure StateKeyKind(): Text
    begin
        exit('StateKey');
    end;

    procedure AccessTokenKind(): Text
    begin
        exit('AccessToken');
    end;

    procedure RefreshTokenKind(): Text
    begin
        exit('RefreshToken');
    end;

    procedure HeldTokensKind(): Text
    begin
        exit('HeldTokens');
    end;
}
