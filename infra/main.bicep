// Everything the relay needs in Azure, in one resource group: `azd up` deploys it (docs/deploy.md).
// The modules in the order of their dependencies: the identities, the logs, the storage, the keys, and
// the app.
targetScope = 'subscription'

@minLength(1)
@maxLength(40)
@description('Name of the azd environment, such as prod. Part of the names of what is created.')
param environmentName string

// `az functionapp list-flexconsumption-locations` has the regions of today: add a new one here.
@allowed([
  'australiaeast'
  'australiasoutheast'
  'brazilsouth'
  'canadacentral'
  'centralindia'
  'centralus'
  'eastasia'
  'eastus'
  'eastus2'
  'francecentral'
  'germanywestcentral'
  'italynorth'
  'japaneast'
  'koreacentral'
  'northcentralus'
  'northeurope'
  'norwayeast'
  'southafricanorth'
  'southcentralus'
  'southeastasia'
  'southindia'
  'spaincentral'
  'swedencentral'
  'uaenorth'
  'uksouth'
  'ukwest'
  'westcentralus'
  'westeurope'
  'westus'
  'westus2'
  'westus3'
])
@description('Azure region, of those that offer Flex Consumption.')
@metadata({ azd: { type: 'location' } })
param location string

@description('Name of the resource group; made of the environment name when empty.')
param resourceGroupName string = ''

@minLength(1)
@description('DYNAMICS_URL: where to POST, such as https://contoso.operations.dynamics.com/data/OAuthCallbacks')
param dynamicsUrl string

@description('DYNAMICS_BODY: JSON template of the body. Empty: for the objects of this project what they take (bodies.json), else the relay\'s default.')
param dynamicsBody object = {}

@description('Further app settings of the relay by their names (docs/settings.md). Empty values are left out.')
param settings object = {}

@description('Settings of further connections: { "XERO": { "DYNAMICS_URL": "…", "CODE_TTL": "60" } } becomes CONNECTIONS__XERO__…')
param connections object = {}

@description('Other Dynamics environments behind the same redirect URI: { "UAT": { "DYNAMICS_URL": "…" } } becomes ENVIRONMENTS__UAT__…')
param environments object = {}

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

@description('Object id of the Entra group whose members may run `doctor --app` and `dead-letters --app`. Empty: nobody gets a role.')
param operatorsGroupId string = ''

@description('Minutes that a callback may be held before an alert.')
param heldMinutes int = 15

@description('Milliseconds: an alert when the slowest twentieth of the deliveries takes longer.')
param slowMilliseconds int = 5000

@allowed(['never', 'PT1H', 'PT2H', 'PT3H', 'PT4H', 'PT5H', 'PT6H', 'P1D'])
@description('How long there may be no delivered callback, after one, before an alert. never: for a relay that is rarely used.')
param silentWindow string = 'P1D'

@minValue(30)
@maxValue(730)
@description('Days that logs are kept.')
param logRetentionDays int = 90

@description('GB of logs a day at most, as text; -1 for no limit. An attacker who sends junk fills it first, so it is a limit on cost.')
param logDailyQuotaGb string = '1'

@description('Ask /health?code=probe from five places every 15 minutes, and tell when three fail.')
param availabilityTest bool = false

@description('Put Front Door in front: rate limit, custom domain, no query strings in its access log. The app then answers nobody else.')
param frontDoor bool = false

@description('Custom domain at Front Door, such as callback.contoso.com. Empty: its own azurefd.net name.')
param customDomain string = ''

@minValue(10)
@description('Requests in five minutes from one address before Front Door refuses more.')
param rateLimit int = 100

@allowed(['', 'Standard_LRS', 'Standard_ZRS', 'Standard_GRS', 'Standard_GZRS'])
@description('Copies of what is held. Empty: three zones where the region has them, else three copies in one place.')
param storageSku string = ''

@allowed(['RollingUpdate', 'Recreate'])
@description('How running instances are replaced. Recreate aborts running callbacks; use it only where a region has no rolling updates.')
param updateStrategy string = 'RollingUpdate'

@description('Reach storage and Key Vault over private endpoints only.')
param privateNetwork bool = false

@allowed(['default', 'recover'])
@description('recover: take the deleted vault of this environment back, with the keys in it. For the first deployment after azd down.')
param vaultCreateMode string = 'default'

@description('Keep the host\'s own keys in files and not in Blob storage: a callback then needs no storage while Dynamics is up. Not tried in Azure.')
param hostKeysInFiles bool = false

var outboxQueue = settings.?OUTBOX_QUEUE ?? ''
var outbox = empty(outboxQueue) ? 'callback-outbox' : outboxQueue
var tenantSetting = settings.?ENTRA_TENANT_ID ?? ''
var authoritySetting = settings.?ENTRA_AUTHORITY ?? ''
var tenantId = empty(tenantSetting) ? tenant().tenantId : tenantSetting
var loginEndpoint = environment().authentication.loginEndpoint
var authority = empty(authoritySetting) ? '${loginEndpoint}${tenantId}' : authoritySetting
var issuer = '${loginEndpoint}${tenant().tenantId}/v2.0'
// Another cloud has another audience; Entra stores a wrong one without an error, and refuses later.
var audience = 'api://AzureADTokenExchange'
var ownSecrets = ['ENTRA_CLIENT_SECRET', 'ENTRA_CLIENT_CERTIFICATE']
var hasOwnSecret = !empty(intersection(vaultSettings, ownSecrets))
var federated = !hasOwnSecret && !identityIsClient
var createRegistration = federated && empty(entraClientId)
var withoutZones = ['australiasoutheast', 'northcentralus', 'southindia', 'ukwest', 'westcentralus', 'westus']
var skuOfRegion = contains(withoutZones, location) ? 'Standard_LRS' : 'Standard_ZRS'

// ---- what is refused before anything is deployed -----------------------------------------------
var alphabet = 'abcdefghijklmnopqrstuvwxyz0123456789'
var groupName = empty(resourceGroupName) ? 'rg-relay-${environmentName}' : resourceGroupName
var secretNames = join(vaultSettings, '_')
var inGroupName = map(range(0, length(groupName)), at => substring(toLower(groupName), at, 1))
var inDomain = map(range(0, length(customDomain)), at => substring(toLower(customDomain), at, 1))
var inOutbox = map(range(0, length(outbox)), at => substring(outbox, at, 1))
var inSecretNames = map(range(0, length(secretNames)), at => substring(secretNames, at, 1))
var strangeInGroupName = filter(inGroupName, one => !contains('${alphabet}-_.()', one))
var strangeInDomain = filter(inDomain, one => !contains('${alphabet}-.', one))
var strangeInOutbox = filter(inOutbox, one => !contains('${alphabet}-', one))
var strangeInSecretNames = filter(inSecretNames, one => !contains('${toUpper(alphabet)}_', one))
var wrongGroup = endsWith(groupName, '.') || !empty(strangeInGroupName)
var wrongHyphen = startsWith(outbox, '-') || endsWith(outbox, '-') || contains(outbox, '--')
var wrongOutbox = wrongHyphen || (length(outbox) < 3) || (length(outbox) > 49) || !empty(strangeInOutbox)
var cloud = environment().name
var secretOfNobody = hasOwnSecret && empty(entraClientId)
var twoClients = identityIsClient && (hasOwnSecret || !empty(entraClientId))
var wrongGroupId = !empty(operatorsGroupId) && (length(operatorsGroupId) != 36)
var problems = concat(
  wrongGroup ? ['The resource group cannot be called ${groupName}: letters, digits, hyphens, no dot at the end.'] : [],
  empty(strangeInDomain) ? [] : ['CUSTOM_DOMAIN: letters, digits, hyphens and dots, such as callback.contoso.com.'],
  wrongOutbox ? ['OUTBOX_QUEUE: 3 to 49 small letters, digits and single hyphens.'] : [],
  empty(strangeInSecretNames) ? [] : ['VAULT_SETTINGS: names of settings, such as CONNECTIONS__XERO__STATE_KEYS.'],
  secretOfNobody ? ['VAULT_SETTINGS names a secret of the client: ENTRA_CLIENT_ID has to say whose it is.'] : [],
  twoClients ? ['IDENTITY_IS_CLIENT: then there is no ENTRA_CLIENT_ID, and no secret of it in VAULT_SETTINGS.'] : [],
  wrongGroupId ? ['OPERATORS_GROUP_ID: the object id of a group in Entra, not its name.'] : [],
  (cloud == 'AzureCloud') ? [] : ['This cloud is not supported: Flex Consumption is in the public one.']
)
// `fail` ends the deployment with these sentences. The resource group bears this tag, so it is first.
var accepted = empty(problems) ? environmentName : fail(join(problems, ' '))

var tags = { 'azd-env-name': accepted }
var token = toLower(uniqueString(subscription().id, environmentName, location))

// ---- what Dynamics gets ------------------------------------------------------------------------
// The objects of this project are known by the ends of their URLs, and each takes one body. A body
// that is given, of the deployment or of the connection, wins.
var bodies = items(loadJsonContent('bodies.json'))
var ofTarget = filter(bodies, one => endsWith(toLower(dynamicsUrl), one.key))
var body = (empty(dynamicsBody) && !empty(ofTarget)) ? ofTarget[0].value : dynamicsBody
var bodyless = filter(items(connections), one => !contains(one.value, 'DYNAMICS_BODY'))
var ofConnections = map(bodyless, one => {
  name: one.key
  bodies: filter(bodies, known => endsWith(toLower(one.value.?DYNAMICS_URL ?? ''), known.key))
})
var ownBodies = toObject(
  filter(ofConnections, one => empty(dynamicsBody) && !empty(one.bodies)),
  one => one.name,
  one => { DYNAMICS_BODY: one.bodies[0].value }
)

resource group 'Microsoft.Resources/resourceGroups@2025-04-01' = {
  name: groupName
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

// Brings the package. Not the app's own identity, which could then replace its own code.
module deployer 'br/public:avm/res/managed-identity/user-assigned-identity:0.6.0' = {
  name: 'deployer'
  scope: group
  params: {
    name: 'id-relay-deployer-${token}'
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
    audience: audience
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
    outbox: outbox
    skuName: empty(storageSku) ? skuOfRegion : storageSku
    endpointsSubnetId: network.?outputs.endpointsSubnetId ?? ''
    blobZoneId: network.?outputs.blobZoneId ?? ''
    queueZoneId: network.?outputs.queueZoneId ?? ''
    tableZoneId: network.?outputs.tableZoneId ?? ''
  }
}

module package 'modules/package.bicep' = {
  name: 'package'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    deployerPrincipalId: deployer.outputs.principalId
    appPrincipalId: identity.outputs.principalId
    skuName: empty(storageSku) ? skuOfRegion : storageSku
    endpointsSubnetId: network.?outputs.endpointsSubnetId ?? ''
    blobZoneId: network.?outputs.blobZoneId ?? ''
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
    createMode: vaultCreateMode
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
    deployerId: deployer.outputs.resourceId
    appInsightsConnectionString: monitoring.outputs.connectionString
    storageName: storage.outputs.name
    blobEndpoint: storage.outputs.blobEndpoint
    queueEndpoint: storage.outputs.queueEndpoint
    tableEndpoint: storage.outputs.tableEndpoint
    packageUrl: package.outputs.url
    hostKeysInFiles: hostKeysInFiles
    vaultUri: vault.outputs.uri
    vaultSettings: vaultSettings
    dynamicsUrl: dynamicsUrl
    dynamicsBody: body
    entraAuthority: authority
    entraClientId: createRegistration ? registration!.outputs.clientId : entraClientId
    useIdentity: !hasOwnSecret
    settings: settings
    connections: union(connections, ownBodies)
    environments: environments
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

module availability 'modules/availability.bicep' = if (availabilityTest) {
  name: 'availability'
  scope: group
  params: {
    token: token
    location: location
    tags: tags
    insightsId: monitoring.outputs.insightsId
    url: url
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
    availabilityTest: availabilityTest
  }
}

module operators 'modules/operators.bicep' = if (!empty(operatorsGroupId)) {
  name: 'operators'
  scope: group
  params: {
    token: token
    groupId: operatorsGroupId
    appName: app.outputs.name
    storageName: storage.outputs.name
    outbox: outbox
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

var url = frontDoorRoute.?outputs.url ?? 'https://${app.outputs.hostName}'
var clientOfIdentity = identityIsClient ? identity.outputs.clientId : entraClientId
var connectionNames = map(objectKeys(connections), name => toLower(replace(name, '_', '-')))
var callbacks = concat(['/callback'], map(connectionNames, name => '/callback/${name}'))

output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_RESOURCE_GROUP string = group.name
output RELAY_APP_NAME string = app.outputs.name
output RELAY_APP_ID string = app.outputs.resourceId
output RELAY_URL string = url
output RELAY_VAULT_NAME string = vault.outputs.name
output RELAY_VAULT_ID string = vault.outputs.resourceId
output RELAY_VAULT_SETTINGS string = join(app.outputs.vaultSettings, ',')
output RELAY_STORAGE_NAME string = storage.outputs.name
output RELAY_CLIENT_ID string = registration.?outputs.clientId ?? clientOfIdentity
output RELAY_FEDERATED bool = federated
output RELAY_REGISTRATION_CREATED bool = createRegistration
output RELAY_IDENTITY_PRINCIPAL_ID string = identity.outputs.principalId
output RELAY_FEDERATION_ISSUER string = issuer
output RELAY_FEDERATION_AUDIENCE string = audience
output RELAY_CALLBACKS string = join(callbacks, ',')
output RELAY_STATE_POLICY string = app.outputs.statePolicy
output RELAY_DOMAIN string = frontDoor ? customDomain : ''
output RELAY_ENDPOINT_HOST string = frontDoorRoute.?outputs.endpointHostName ?? ''
output RELAY_DOMAIN_VALIDATION string = frontDoorRoute.?outputs.domainValidation ?? ''
