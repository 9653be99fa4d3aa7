/// <summary>
/// Keeps secrets in isolated storage, encrypted, for this extension in this company.
/// </summary>
/// <remarks>
/// SetEncrypted accepts 215 characters, and a token has thousands: a secret is stored in pieces.
/// </remarks>
codeunit 50100 "OAuth Secrets"
{
    Access = Internal;

    var
        EncryptionErr: Label 'Data encryption is off. Turn it on under Data Encryption Management before secrets are stored.';

    /// <summary>
    /// Stores a secret and replaces the old one.
    /// </summary>
    /// <param name="ConnectionName">The connection that it belongs to.</param>
    /// <param name="Kind">Which of its secrets.</param>
    /// <param name="Value">The secret.</param>
    [NonDebuggable]
    procedure Set(ConnectionName: Text; Kind: Text; Value: Text)
    var
        Piece: Integer;
    begin
        if not EncryptionEnabled() then
            Error(EncryptionErr);

        Delete(ConnectionName, Kind);
        while Value <> '' do begin
            Piece += 1;
            IsolatedStorage.SetEncrypted(StorageKey(ConnectionName, Kind, Piece), CopyStr(Value, 1, PieceSize()), DataScope::Company);
            Value := CopyStr(Value, PieceSize() + 1);
        end;
    end;

    /// <summary>
    /// Returns a secret, or an empty text.
    /// </summary>
    [NonDebuggable]
    procedure Get(ConnectionName: Text; Kind: Text) Value: Text
    var
        Part: Text;
        Piece: Integer;
    begin
        Piece := 1;
        while IsolatedStorage.Get(StorageKey(ConnectionName, Kind, Piece), DataScope::Company, Part) do begin
            Value += Part;
            Piece += 1;
        end;
    end;

    local procedure Delete(ConnectionName: Text; Kind: Text)
    var
        Piece: Integer;
    begin
        Piece := 1;
        while IsolatedStorage.Contains(StorageKey(ConnectionName, Kind, Piece), DataScope::Company) do begin
            IsolatedStorage.Delete(StorageKey(ConnectionName, Kind, Piece), DataScope::Company);
            Piece += 1;
        end;
    end;

    local procedure StorageKey(ConnectionName: Text; Kind: Text; Piece: Integer): Text
    begin
        exit(ConnectionName + '/' + Kind + '/' + Format(Piece, 0, 9));
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
}
