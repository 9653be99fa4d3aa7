// The redirect URI as API Management policies, for those who run API Management and no Functions:
// in an instance that is there already, or in a new one. README.md says what it cannot do that the
// Function App can.
//
//   az deployment group create -g <group> -f infra/apim/main.bicep -p dynamicsUrl=… target=… …
@description('Azure region of a new instance.')
param location string = resourceGroup().location

@description('Name of an instance of this resource group that is there already. Its system-assigned identity has to be on. Empty: a new one is made.')
param existingService string = ''

@description('E-mail address for Azure\'s notices about a new instance, which needs one.')
param publisherEmail string = ''

@allowed(['BasicV2', 'StandardV2', 'Developer'])
@description('Tier of a new instance. Consumption has neither a cache of its own nor rate-limit-by-key.')
param sku string = 'BasicV2'

@description('Suffix of the API\'s URL: the redirect URI is <gateway>/<apiPath><callbackPath>. Empty: none.')
param apiPath string = ''

@description('Path of the redirect URI below it, with a slash in front.')
param callbackPath string = '/callback'

@description('Where to POST, such as https://contoso.operations.dynamics.com/data/OAuthCallbacks')
param dynamicsUrl string

@allowed(['finance-operations', 'custom-service', 'business-central', 'dataverse', 'code-and-state'])
@description('What the URL leads to: the object of infra/dynamics for this kind of Dynamics, or an object of your own that takes {"code", "state"}. It decides the body.')
param target string

@description('Resource that the token is for; its scope is <resource>/.default.')
param dynamicsResource string = join(take(split(dynamicsUrl, '/'), 3), '/')

@minLength(3)
@description('Regular expression that the whole state must match. There is no signed state here: this pattern is the only check of it.')
param statePattern string

@description('The name of the connection: what Dynamics minted the state for.')
param connectionName string = 'default'

@minValue(30)
@maxValue(3600)
@description('Seconds that an authorization code of the provider lives.')
param codeTtl int = 300

@description('Application (client) id of an app registration with a client secret. Empty: the identity of the instance is the client, and there is no secret.')
param clientId string = ''

@description('Tenant of the registration.')
param tenantId string = tenant().tenantId

@description('With clientId: name of an existing Key Vault of this resource group, with RBAC. It holds the client secret.')
param vaultName string = ''

@description('Name of the secret in it.')
param secretName string = 'entra-client-secret'

var token = toLower(uniqueString(resourceGroup().id))
var serviceName = empty(existingService) ? 'apim-relay-${token}' : existingService

// What Python and .NET read differently, or only one of them reads. A class minus a class ends in ]].
var groups = ['(?P', '(?<', '(?a', '(?L', '(?u', '(?n', ']]', '{,', '++', '*+', '?+', '}+']
var escapes = ['\\p', '\\P', '\\N', '\\U', '\\c', '\\e', '\\G', '\\k', '\\_', '\\z', '\\Z']
var refused = filter(concat(groups, escapes), part => contains(statePattern, part))
var notTheSame = 'statePattern: ${join(refused, ' ')} does not mean the same here and in STATE_PATTERN of the Function App. Write it without.'
var checkedPattern = empty(refused) ? statePattern : fail(notTheSame)
var noTls = 'dynamicsUrl: expected a URL that begins with https://'
var checkedUrl = startsWith(dynamicsUrl, 'https://') ? dynamicsUrl : fail(noTls)
var noVault = 'vaultName: expected, because clientId is given. It holds the client secret.'
var checkedVault = (empty(clientId) || !empty(vaultName)) ? vaultName : fail(noVault)

// The members that the objects of infra/dynamics take and this edition has a value for.
var members = {
  StateHash: '{state_hash}'
  State: '{state}'
  Code: '{code}'
  ConnectionName: '{connection}'
  DeliveryId: '{delivery_id}'
  RelayReference: '{reference}'
  ReceivedAt: '{received_at}'
  ExpiresAt: '{expires_at}'
}
var bodies = {
  'finance-operations': members
  'custom-service': { _contract: members }
  'business-central': {
    stateHash: '{state_hash}'
    state: '{state}'
    code: '{code}'
    connectionName: '{connection}'
    deliveryId: '{delivery_id}'
    relayReference: '{reference}'
    receivedAt: '{received_at}'
    expiresAt: '{expires_at}'
  }
  dataverse: {
    oacb_statehash: '{state_hash}'
    oacb_state: '{state}'
    oacb_code: '{code}'
    oacb_connectionname: '{connection}'
    oacb_name: '{delivery_id}'
    oacb_relayreference: '{reference}'
    oacb_receivedat: '{received_at}'
    oacb_expiresat: '{expires_at}'
  }
  'code-and-state': { code: '{code}', state: '{state}' }
}

module service 'br/public:avm/res/api-management/service:0.14.4' = if (empty(existingService)) {
  name: 'apim'
  params: {
    name: serviceName
    location: location
    sku: sku
    skuCapacity: 1
    availabilityZones: []
    publisherEmail: publisherEmail
    publisherName: 'OAuth callback relay'
    managedIdentities: { systemAssigned: true }
    enableDeveloperPortal: false
    minApiVersion: '2021-08-01'
    // Metrics and no logs: GatewayLogs has the whole URL of a request, and with it the code.
    diagnosticSettings: []
    enableTelemetry: false
  }
}

// Not with the service's own module: it makes named values and policies at the same time, and a
// policy is refused while a named value that it uses is not there.
module api 'api.bicep' = {
  name: 'apim-oauth-callback'
  dependsOn: [service]
  params: {
    serviceName: serviceName
    apiPath: apiPath
    callbackPath: callbackPath
    namedValues: {
      'relay-dynamics-url': checkedUrl
      'relay-dynamics-resource': dynamicsResource
      'relay-state-pattern': base64(checkedPattern)
      'relay-body': base64(string(bodies[target]))
      'relay-connection': connectionName
      'relay-code-ttl': string(codeTtl)
    }
    clientId: clientId
    tokenEndpoint: '${environment().authentication.loginEndpoint}${tenantId}/oauth2/v2.0/token'
    vaultName: checkedVault
    secretName: secretName
  }
}

@description('What to register at the provider.')
output redirectUri string = api.outputs.redirectUri

@description('Object id of the identity that Dynamics has to know, unless clientId is given. `az ad sp show --id` prints its application id.')
output identityObjectId string = api.outputs.identityObjectId
