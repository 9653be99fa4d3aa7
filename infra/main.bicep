// Everything the relay needs in Azure, in one resource group: `azd up` deploys it (docs/deploy.md).
// The modules in the order of their dependencies: the identity, its logs, its storage, its keys, and
// the app that runs as it.
targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the azd environment, such as prod. Part of the names of what is created.')
param environmentName string

@minLength(1)
@description('Azure region. It must offer Flex Consumption.')
@metadata({ azd: { type: 'location' } })
param location string

@description('Name of the resource group; made of the environment name when empty.')
param resourceGroupName string = ''

@minLength(1)
@description('DYNAMICS_URL: where to POST, such as https://contoso.operations.dynamics.com/data/OAuthCallbacks')
param dynamicsUrl string

@description('DYNAMICS_BODY: JSON template of the body. Empty: the code and the state of the relay\'s default.')
param dynamicsBody object = {}

@description('Further app settings of the relay by their names (docs/settings.md). Empty values are left out.')
param settings object = {}

@description('Settings of further connections: { "XERO": { "DYNAMICS_URL": "…", "CODE_TTL": "60" } } becomes CONNECTIONS__XERO__…')
param connections object = {}

@description('Settings that are secrets besides the minted keys, by their full names, such as ENTRA_CLIENT_SECRET. Each is read from the Key Vault secret of the same name in lower case with hyphens.')
param vaultSettings string[] = []

@description('Application (client) id of an app registration that exists. Empty: one is created, with a federated credential and no secret.')
param entraClientId string = ''

@description('Let the managed identity itself be the client at Dynamics, without an app registration. Dataverse takes that; Finance & Operations and Business Central want the registration.')
param identityIsClient bool = false

@allowed([512, 2048, 4096])
@description('Memory of an instance in MB. It decides the share of a processor, and with it the cold start.')
param instanceMemoryMB int = 2048

@minValue(1)
@maxValue(1000)
@description('How many instances there may be at once. A limit on cost, and on the load for Dynamics.')
param maximumInstanceCount int = 40

@minValue(1)
@maxValue(1000)
@description('How many HTTP requests one instance takes at once. A callback waits for Entra and Dynamics nearly all its time.')
param httpConcurrency int = 16

@minValue(0)
@maxValue(20)
@description('Instances that are always warm for HTTP. 0: the first callback after a quiet time waits for a cold start.')
param alwaysReadyHttp int = 0

@minValue(0)
@maxValue(20)
@description('Instances that are always warm for the outbox.')
param alwaysReadyRedeliver int = 0

@description('E-mail addresses that alerts go to. Empty: alerts are only seen in the portal.')
param alertEmails string[] = []

@description('Minutes that a callback may be held before an alert.')
param heldMinutes int = 15

@description('Milliseconds: an alert when the slowest twentieth of the deliveries takes longer.')
param slowMilliseconds int = 5000

@allowed(['never', 'PT1H', 'PT2H', 'PT3H', 'PT4H', 'PT5H', 'PT6H', 'P1D', 'P2D'])
@description('How long there may be no delivered callback before an alert. never: for a relay that is rarely used.')
param silentWindow string = 'P1D'

@minValue(30)
@maxValue(730)
@description('Days that logs are kept.')
param logRetentionDays int = 90

@description('GB of logs a day at most, as text; -1 for no limit. An attacker who sends junk fills it first, so it is a limit on cost.')
param logDailyQuotaGb string = '1'

@description('Put Front Door in front: rate limit, custom domain, no query strings in its access log. The app then answers nobody else.')
param frontDoor bool = false

@description('Custom domain at Front Door, such as callback.contoso.com. Empty: its own azurefd.net name.')
param customDomain string = ''

@minValue(10)
@description('Requests in five minutes from one address before Front Door refuses more.')
param rateLimit int = 100

@allowed(['Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
@description('Copies of what is held. ZRS survives a datacenter; a region without zones has only LRS and GRS.')
param storageSku string = 'Standard_ZRS'

@allowed(['RollingUpdate', 'Recreate'])
@description('How running instances are replaced. Recreate aborts running callbacks; use it only where a region has no rolling updates.')
param updateStrategy string = 'RollingUpdate'

@description('Reach storage and Key Vault over private endpoints only.')
param privateNetwork bool = false

var tags = { 'azd-env-name': environmentName }
var token = toLower(uniqueString(subscription().id, environmentName, location))
var outboxQueue = settings.?OUTBOX_QUEUE ?? ''
var outbox = empty(outboxQueue) ? 'callback-outbox' : outboxQueue
var tenantSetting = settings.?ENTRA_TENANT_ID ?? ''
var authoritySetting = settings.?ENTRA_AUTHORITY ?? ''
var tenantId = empty(tenantSetting) ? tenant().tenantId : tenantSetting
var authority = empty(authoritySetting) ? '${environment().authentication.loginEndpoint}${tenantId}' : authoritySetting
// Each cloud has an audience of its own; Entra stores a wrong one without an error, and refuses later.
var audiences = {
  AzureCloud: 'api://AzureADTokenExchange'
  AzureUSGovernment: 'api://AzureADTokenExchangeUSGov'
  AzureChinaCloud: 'api://AzureADTokenExchangeChina'
}
var issuer = '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
var hasOwnSecret = contains(vaultSettings, 'ENTRA_CLIENT_SECRET') || contains(vaultSettings, 'ENTRA_CLIENT_CERTIFICATE')
var federated = !hasOwnSecret && !identityIsClient
var createRegistration = federated && empty(entraClientId)

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: empty(resourceGroupName) ? 'rg-relay-${environmentName}' : resourceGroupName
  location: location
  tags: tags
}

module identity 'br/public:avm/res/managed-identity/user-assigned-identity:0.6.0' = {
  name: 'identity'
  scope: group
  params: {
    name: 'id-relay-${token}'
    location: location
    tags: tags
    enableTelemetry: false
  }
}

module registration 'modules/registration.bicep' = if (createRegistration) {
  name: 'registration'
  scope: group
  params: {
    uniqueName: 'relay-${token}'
    displayName: 'OAuth callback relay (${environmentName})'
    identityPrincipalId: identity.outputs.principalId
    issuer: issuer
    audience: audiences[environment().name]
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'monitoring'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    retentionDays: logRetentionDays
    dailyQuotaGb: logDailyQuotaGb
  }
}

module network 'modules/network.bicep' = if (privateNetwork) {
  name: 'network'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
  }
}

module storage 'modules/storage.bicep' = {
  name: 'storage'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
    outbox: outbox
    skuName: storageSku
    endpointsSubnetId: network.?outputs.endpointsSubnetId ?? ''
    blobZoneId: network.?outputs.blobZoneId ?? ''
    queueZoneId: network.?outputs.queueZoneId ?? ''
  }
}

module vault 'modules/vault.bicep' = {
  name: 'vault'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    principalId: identity.outputs.principalId
    workspaceId: monitoring.outputs.workspaceId
    endpointsSubnetId: network.?outputs.endpointsSubnetId ?? ''
    vaultZoneId: network.?outputs.vaultZoneId ?? ''
  }
}

module frontDoorProfile 'modules/front-door-profile.bicep' = if (frontDoor) {
  name: 'front-door-profile'
  scope: group
  params: {
    token: token
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
  }
}

module app 'modules/app.bicep' = {
  name: 'app'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    identityId: identity.outputs.resourceId
    identityClientId: identity.outputs.clientId
    workspaceId: monitoring.outputs.workspaceId
    appInsightsConnectionString: monitoring.outputs.connectionString
    blobEndpoint: storage.outputs.blobEndpoint
    queueEndpoint: storage.outputs.queueEndpoint
    packageContainer: storage.outputs.packageContainer
    vaultUri: vault.outputs.uri
    vaultSettings: vaultSettings
    dynamicsUrl: dynamicsUrl
    dynamicsBody: dynamicsBody
    entraAuthority: authority
    entraClientId: createRegistration ? registration!.outputs.clientId : identityIsClient ? '' : entraClientId
    useIdentity: !hasOwnSecret
    settings: settings
    connections: connections
    instanceMemoryMB: instanceMemoryMB
    maximumInstanceCount: maximumInstanceCount
    httpConcurrency: httpConcurrency
    alwaysReadyHttp: alwaysReadyHttp
    alwaysReadyRedeliver: alwaysReadyRedeliver
    updateStrategy: updateStrategy
    frontDoorId: frontDoorProfile.?outputs.frontDoorId ?? ''
    appSubnetId: network.?outputs.appSubnetId ?? ''
  }
}

module frontDoorRoute 'modules/front-door-route.bicep' = if (frontDoor) {
  name: 'front-door-route'
  scope: group
  params: {
    token: token
    tags: tags
    profileName: frontDoorProfile!.outputs.name
    originHostName: app.outputs.hostName
    customDomain: customDomain
    rateLimit: rateLimit
  }
}

module alerts 'modules/alerts.bicep' = {
  name: 'alerts'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
    emails: alertEmails
    heldMinutes: heldMinutes
    slowMilliseconds: slowMilliseconds
    silentWindow: silentWindow
  }
}

module workbook 'modules/workbook.bicep' = {
  name: 'workbook'
  scope: group
  params: {
    location: location
    tags: tags
    workspaceId: monitoring.outputs.workspaceId
  }
}

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output RELAY_APP_NAME string = app.outputs.name
output RELAY_APP_ID string = app.outputs.resourceId
output RELAY_URL string = frontDoorRoute.?outputs.url ?? 'https://${app.outputs.hostName}'
output RELAY_VAULT_NAME string = vault.outputs.name
output RELAY_VAULT_ID string = vault.outputs.resourceId
output RELAY_VAULT_SETTINGS string = join(app.outputs.vaultSettings, ',')
output RELAY_STORAGE_NAME string = storage.outputs.name
output RELAY_CLIENT_ID string = registration.?outputs.clientId ?? (identityIsClient ? identity.outputs.clientId : entraClientId)
output RELAY_FEDERATED bool = federated
output RELAY_REGISTRATION_CREATED bool = createRegistration
output RELAY_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output RELAY_FEDERATION_ISSUER string = issuer
output RELAY_FEDERATION_AUDIENCE string = audiences[environment().name]
output RELAY_CALLBACKS string = join(concat(['/callback'], map(objectKeys(connections), name => '/callback/${toLower(replace(name, '_', '-'))}')), ',')
output RELAY_DOMAIN string = frontDoor ? customDomain : ''
output RELAY_ENDPOINT_HOST string = frontDoorRoute.?outputs.endpointHostName ?? ''
output RELAY_DOMAIN_VALIDATION string = frontDoorRoute.?outputs.domainValidation ?? ''
