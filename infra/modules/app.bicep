// The Function App on Flex Consumption, and every setting of the relay.
param token string
param location string
param tags object

@description('The identity that the app runs as.')
param identityId string
param identityClientId string

@description('The identity that writes the package, and with which the platform reads it.')
param deployerId string
param appInsightsConnectionString string

@description('The storage account of the host and of the outbox.')
param storageName string
param blobEndpoint string
param queueEndpoint string
param tableEndpoint string

@description('The blob container of the package.')
param packageUrl string

@description('The host keeps its own keys in files, and asks Blob storage for none.')
param hostKeysInFiles bool
param vaultUri string

@description('Settings that are secrets besides the minted keys.')
param vaultSettings string[]
param dynamicsUrl string
param dynamicsBody object
param entraAuthority string
param entraClientId string

@description('The managed identity is the credential: there is no secret.')
param useIdentity bool

@description('Further app settings by their names; an empty one counts as not given.')
param settings object
param connections object
param environments object
param instanceMemoryMB int
param maximumInstanceCount int
param httpConcurrency int
param alwaysReadyHttp int
param alwaysReadyRedeliver int
param updateStrategy string

@description('Id of the Front Door that alone may call the app; empty: anybody may.')
param frontDoorId string

@description('Subnet that the app calls out from; empty: no virtual network.')
param appSubnetId string

var name = 'func-relay-${token}'

// ---- what the platform needs -------------------------------------------------------------------
var platform = {
  // The account's name beside the addresses: without it some hosts start with no client for blobs
  // (azure-functions-host#11787). With it the host wants the table service too.
  AzureWebJobsStorage__accountName: storageName
  AzureWebJobsStorage__blobServiceUri: blobEndpoint
  AzureWebJobsStorage__queueServiceUri: queueEndpoint
  AzureWebJobsStorage__tableServiceUri: tableEndpoint
  AzureWebJobsStorage__credential: 'managedidentity'
  AzureWebJobsStorage__clientId: identityClientId
  AzureWebJobsDisableHomepage: 'true'
  APPLICATIONINSIGHTS_CONNECTION_STRING: appInsightsConnectionString
  APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
  // The relay answers 413 above 32 KiB with its own page; the host must not take 100 MB before that.
  FUNCTIONS_REQUEST_BODY_SIZE_LIMIT: '65536'
}
var hostKeys = hostKeysInFiles ? { AzureWebJobsSecretStorageType: 'files' } : {}

// ---- what the relay needs ----------------------------------------------------------------------
var minted = ['OUTBOX_KEYS', 'STATE_KEYS']
var secretSettings = union(minted, vaultSettings)
var secrets = toObject(
  secretSettings,
  setting => setting,
  setting => '@Microsoft.KeyVault(SecretUri=${vaultUri}secrets/${toLower(replace(setting, '_', '-'))})'
)
var client = empty(entraClientId) ? {} : { ENTRA_CLIENT_ID: entraClientId }
var identity = useIdentity ? { ENTRA_MANAGED_IDENTITY_CLIENT_ID: identityClientId } : {}
var body = empty(dynamicsBody) ? {} : { DYNAMICS_BODY: string(dynamicsBody) }
// Said and not left to the default: a deployment is closed to strangers unless somebody says otherwise.
var policy = { STATE_POLICY: 'signed' }
var target = union({ ENTRA_AUTHORITY: entraAuthority, DYNAMICS_URL: dynamicsUrl }, policy, client, identity, body)
var answered = ['ENTRA_AUTHORITY', 'ENTRA_TENANT_ID']
var further = toObject(
  filter(items(settings), setting => !empty(setting.value) && !contains(answered, setting.key)),
  setting => setting.key,
  setting => string(setting.value)
)
var ofConnections = toObject(
  flatten(map(
    items(connections),
    connection =>
      map(items(connection.value), setting => {
        name: 'CONNECTIONS__${toUpper(replace(connection.key, '-', '_'))}__${setting.key}'
        value: string(setting.value)
      })
  )),
  setting => setting.name,
  setting => setting.value
)
var ofEnvironments = toObject(
  flatten(map(
    items(environments),
    other =>
      map(items(other.value), setting => {
        name: 'ENVIRONMENTS__${toUpper(replace(other.key, '-', '_'))}__${setting.key}'
        value: string(setting.value)
      })
  )),
  setting => setting.name,
  setting => setting.value
)

// Only this deployment's Front Door may call the app; without one, everybody may.
var frontDoorOnly = {
  name: 'front-door'
  priority: 100
  action: 'Allow'
  tag: 'ServiceTag'
  ipAddress: 'AzureFrontDoor.Backend'
  headers: { 'x-azure-fdid': [frontDoorId] }
}
var callers = empty(frontDoorId) ? [] : [frontDoorOnly]

module plan 'br/public:avm/res/web/serverfarm:0.7.0' = {
  name: 'plan'
  params: {
    name: 'plan-relay-${token}'
    location: location
    tags: tags
    kind: 'functionapp'
    skuName: 'FC1'
    reserved: true
    zoneRedundant: false
    enableTelemetry: false
  }
}

module site 'br/public:avm/res/web/site:0.24.0' = {
  name: 'site'
  params: {
    name: name
    location: location
    tags: union(tags, { 'azd-service-name': 'relay' })
    kind: 'functionapp,linux'
    serverFarmResourceId: plan.outputs.resourceId
    managedIdentities: { userAssignedResourceIds: [identityId, deployerId] }
    keyVaultAccessIdentityResourceId: identityId
    httpsOnly: true
    publicNetworkAccess: 'Enabled'
    clientAffinityEnabled: false
    virtualNetworkSubnetResourceId: empty(appSubnetId) ? null : appSubnetId
    // FTP is off, and no password opens the deployment endpoint either: `azd deploy` and the workflow
    // bring Entra tokens.
    basicPublishingCredentialsPolicies: [
      { name: 'ftp', allow: false }
      { name: 'scm', allow: false }
    ]
    siteConfig: {
      // No alwaysOn, no ftpsState and no Linux runtime version: Flex Consumption has none of them,
      // and answers a deployment that names one with error 51021.
      minTlsVersion: '1.2'
      scmMinTlsVersion: '1.2'
      http20Enabled: true
      remoteDebuggingEnabled: false
      // No HTTP log: it would hold the query strings, and with them the codes.
      httpLoggingEnabled: false
      detailedErrorLoggingEnabled: false
      requestTracingEnabled: false
      ipSecurityRestrictionsDefaultAction: empty(frontDoorId) ? 'Allow' : 'Deny'
      ipSecurityRestrictions: callers
      // Deployments come from other addresses than callbacks.
      scmIpSecurityRestrictionsUseMain: false
    }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: packageUrl
          authentication: {
            type: 'UserAssignedIdentity'
            userAssignedIdentityResourceId: deployerId
          }
        }
      }
      runtime: { name: 'python', version: '3.13' }
      scaleAndConcurrency: {
        instanceMemoryMB: instanceMemoryMB
        maximumInstanceCount: maximumInstanceCount
        alwaysReady: concat(
          (alwaysReadyHttp > 0) ? [{ name: 'http', instanceCount: alwaysReadyHttp }] : [],
          (alwaysReadyRedeliver > 0) ? [{ name: 'function:redeliver', instanceCount: alwaysReadyRedeliver }] : []
        )
        triggers: { http: { perInstanceConcurrency: httpConcurrency } }
      }
      // https://learn.microsoft.com/azure/azure-functions/flex-consumption-site-updates
      // Documented, and not yet in the published type.
      #disable-next-line BCP037
      siteUpdateStrategy: { type: updateStrategy }
    }
    configs: [
      {
        name: 'appsettings'
        // The whole list: a setting that is not here is removed.
        retainCurrentAppSettings: false
        properties: union(platform, hostKeys, target, further, ofConnections, ofEnvironments, secrets)
      }
    ]
    // No diagnostic setting: FunctionAppLogs repeat what Application Insights has already, and
    // AppServiceHTTPLogs have a column CsUriQuery, which is where codes are.
    enableTelemetry: false
  }
}

output name string = site.outputs.name
output resourceId string = site.outputs.resourceId
output hostName string = site.outputs.defaultHostname
output vaultSettings string[] = secretSettings
output statePolicy string = union(policy, further).STATE_POLICY
