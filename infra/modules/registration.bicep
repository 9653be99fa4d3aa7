// The application that Dynamics knows. It has no secret: the relay's managed identity is its credential.
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity
extension microsoftGraphV1

@description('Name by which a second deployment finds the registration again.')
param uniqueName string

@description('What administrators read in Entra.')
param displayName string

@description('Object id of the managed identity that is the application\'s credential.')
param identityPrincipalId string

@description('Who issues the identity\'s tokens.')
param issuer string

@description('Audience of token exchange in this cloud.')
param audience string

resource application 'Microsoft.Graph/applications@v1.0' = {
  uniqueName: uniqueName
  displayName: displayName
  signInAudience: 'AzureADMyOrg'
  notes: 'Posts authorization codes to Dynamics. No secret: a managed identity is its federated credential.'

  resource credential 'federatedIdentityCredentials@v1.0' = {
    name: '${uniqueName}/relay'
    description: 'The managed identity of the relay\'s Function App.'
    issuer: issuer
    subject: identityPrincipalId
    audiences: [audience]
  }
}

// Without it Entra has no `oid` for the token, and Dynamics answers 401.
resource principal 'Microsoft.Graph/servicePrincipals@v1.0' = {
  appId: application.appId
}

output clientId string = application.appId
output principalId string = principal.id
