// The redirect URI as an API Management policy, for those who run API Management and no Functions.
// README.md says what it cannot do that the Function App can.
//
//   az deployment group create -g <group> -f infra/apim/main.bicep -p vaultName=… clientId=… …
@description('Azure region.')
param location string = resourceGroup().location

@description('Name of an existing Key Vault of this resource group, with RBAC. It holds the client secret.')
param vaultName string

@description('Name of the secret in it.')
param secretName string = 'entra-client-secret'

@description('E-mail address for Azure\'s notices about the service.')
param publisherEmail string

@description('Application (client) id of the app registration that Dynamics knows.')
param clientId string

@description('Tenant of the registration.')
param tenantId string = tenant().tenantId

@description('Where to POST, such as https://contoso.operations.dynamics.com/data/OAuthCallbacks')
param dynamicsUrl string

@description('Scope of the token, such as https://contoso.operations.dynamics.com/.default')
param dynamicsScope string

@minLength(3)
@description('Regular expression that the whole state must match, without a double quote. There is no signed state here: this pattern is the only check of it.')
param statePattern string

@allowed(['BasicV2', 'StandardV2', 'Developer'])
@description('Tier. Consumption has no cache of its own, and would ask Entra for a token at each callback.')
param sku string = 'BasicV2'

var token = toLower(uniqueString(resourceGroup().id))
var keyVaultSecretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var tokenEndpoint = '${environment().authentication.loginEndpoint}${tenantId}/oauth2/v2.0/token'

resource vault 'Microsoft.KeyVault/vaults@2026-02-01' existing = {
  name: vaultName
}

// Made before the service: a named value is read from the vault while the service is being made.
module identity 'br/public:avm/res/managed-identity/user-assigned-identity:0.6.0' = {
  name: 'apim-identity'
  params: {
    name: 'id-relay-apim-${token}'
    location: location
    enableTelemetry: false
  }
}

module access 'br/public:avm/ptn/authorization/resource-role-assignment:0.1.2' = {
  name: 'apim-reads-secret'
  params: {
    principalId: identity.outputs.principalId
    principalType: 'ServicePrincipal'
    resourceId: vault.id
    roleDefinitionId: keyVaultSecretsUser
    description: 'API Management reads the client secret.'
    enableTelemetry: false
  }
}

module service 'br/public:avm/res/api-management/service:0.14.4' = {
  name: 'apim'
  dependsOn: [access]
  params: {
    name: 'apim-relay-${token}'
    location: location
    sku: sku
    skuCapacity: 1
    availabilityZones: []
    publisherEmail: publisherEmail
    publisherName: 'OAuth callback relay'
    managedIdentities: { userAssignedResourceIds: [identity.outputs.resourceId] }
    enableDeveloperPortal: false
    minApiVersion: '2021-08-01'
    namedValues: [
      {
        name: 'relay-client-secret'
        displayName: 'relay-client-secret'
        secret: true
        keyVault: {
          secretIdentifier: '${vault.properties.vaultUri}secrets/${secretName}'
          identityClientId: identity.outputs.clientId
        }
      }
      { name: 'relay-client-id', displayName: 'relay-client-id', value: clientId }
      { name: 'relay-token-endpoint', displayName: 'relay-token-endpoint', value: tokenEndpoint }
      { name: 'relay-dynamics-url', displayName: 'relay-dynamics-url', value: dynamicsUrl }
      { name: 'relay-dynamics-scope', displayName: 'relay-dynamics-scope', value: dynamicsScope }
      { name: 'relay-state-pattern', displayName: 'relay-state-pattern', value: statePattern }
    ]
    apis: [
      {
        name: 'oauth-callback'
        displayName: 'OAuth callback'
        path: ''
        protocols: ['https']
        subscriptionRequired: false
        operations: [
          {
            name: 'callback'
            displayName: 'The redirect URI'
            method: 'GET'
            urlTemplate: '/callback'
            policies: [{ format: 'xml', value: loadTextContent('callback.policy.xml') }]
          }
          {
            name: 'done'
            displayName: 'The page at the end'
            method: 'GET'
            urlTemplate: '/done/{outcome}'
            templateParameters: [{ name: 'outcome', type: 'string', required: true }]
            policies: [{ format: 'xml', value: loadTextContent('done.policy.xml') }]
          }
        ]
      }
    ]
    // Metrics and no logs: GatewayLogs has the whole URL of a request, and with it the code.
    diagnosticSettings: []
    enableTelemetry: false
  }
}

output redirectUri string = 'https://${service.outputs.name}.azure-api.net/callback'
