// The storage of the package, apart from all others: the app can read its own code and not replace it.
param token string
param location string
param tags object

@description('Object id of the identity that brings the package. The platform acts as it in a deployment.')
param deployerPrincipalId string

@description('Object id of the identity that the app runs as.')
param appPrincipalId string
param skuName string

@description('Subnet for a private endpoint; empty: the public endpoint, with Entra tokens only.')
param endpointsSubnetId string
param blobZoneId string

var blobDataContributor = 'ba92f5b4-2d11-453d-a403-e96b0029c9fe'
var blobDataReader = '2a2b9908-6ea1-4ae2-8e65-a410df84e7d1'
var container = 'app-package'
var isPrivate = !empty(endpointsSubnetId)
var endpoint = {
  service: 'blob'
  subnetResourceId: endpointsSubnetId
  privateDnsZoneGroup: {
    privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: blobZoneId }]
  }
  enableTelemetry: false
}

module account 'br/public:avm/res/storage/storage-account:0.33.0' = {
  name: 'package-account'
  params: {
    name: take('stpackage${token}', 24)
    location: location
    tags: tags
    kind: 'StorageV2'
    skuName: skuName
    allowSharedKeyAccess: false
    defaultToOAuthAuthentication: true
    allowBlobPublicAccess: false
    allowCrossTenantReplication: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
    publicNetworkAccess: isPrivate ? 'Disabled' : 'Enabled'
    networkAcls: {
      bypass: 'None'
      defaultAction: isPrivate ? 'Deny' : 'Allow'
    }
    privateEndpoints: isPrivate ? [endpoint] : []
    blobServices: {
      containers: [
        {
          name: container
          publicAccess: 'None'
          roleAssignments: [
            {
              principalId: deployerPrincipalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: blobDataContributor
              description: 'A deployment writes the package.'
            }
            {
              principalId: appPrincipalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: blobDataReader
              description: 'The app reads its package.'
            }
          ]
        }
      ]
      deleteRetentionPolicyEnabled: true
      deleteRetentionPolicyDays: 7
      containerDeleteRetentionPolicyEnabled: true
      containerDeleteRetentionPolicyDays: 7
    }
    enableTelemetry: false
  }
}

output name string = account.outputs.name
output url string = '${account.outputs.serviceEndpoints.blob}${container}'
