// The keys. The app may read the values of secrets and nothing else; nobody is given more here.
param token string
param location string
param tags object

@description('Object id of the identity that reads the secrets.')
param principalId string
param workspaceId string

@description('recover: take back a deleted vault of this name.')
param createMode string

@description('Subnet for a private endpoint; empty: the public endpoint, with Entra tokens only.')
param endpointsSubnetId string
param vaultZoneId string

var keyVaultSecretsUser = '4633458b-17de-408a-b874-0445c86b69e6'
var isPrivate = !empty(endpointsSubnetId)
var endpoint = {
  subnetResourceId: endpointsSubnetId
  privateDnsZoneGroup: {
    privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: vaultZoneId }]
  }
  enableTelemetry: false
}

module vault 'br/public:avm/res/key-vault/vault:0.14.0' = {
  name: 'key-vault'
  params: {
    name: take('kv-relay-${token}', 24)
    location: location
    tags: tags
    createMode: createMode
    sku: 'standard'
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    enablePurgeProtection: true
    enableVaultForDeployment: false
    enableVaultForDiskEncryption: false
    enableVaultForTemplateDeployment: false
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: isPrivate ? 'Deny' : 'Allow'
    }
    privateEndpoints: isPrivate ? [endpoint] : []
    roleAssignments: [
      {
        principalId: principalId
        principalType: 'ServicePrincipal'
        roleDefinitionIdOrName: keyVaultSecretsUser
        description: 'The relay reads its keys.'
      }
    ]
    diagnosticSettings: [
      {
        name: 'audit'
        workspaceResourceId: workspaceId
        logCategoriesAndGroups: [{ category: 'AuditEvent' }]
        metricCategories: []
      }
    ]
    enableTelemetry: false
  }
}

output name string = vault.outputs.name
output resourceId string = vault.outputs.resourceId
output uri string = vault.outputs.uri
