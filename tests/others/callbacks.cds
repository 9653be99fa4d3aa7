// The data entity, as somebody else's OData server has it.
entity Callbacks {
  key state : String(255);
      code  : LargeString @mandatory;
      iss   : String(255);
}

@path: '/data'
service Data {
  entity OAuthCallbacks as projection on Callbacks;
}
