// The Functions host's blobs and tables, and the queues of the relay. Shared keys are off.
param token string
param location string
param tags object

@description('Object id of the identity that the app runs as.')
param principalId string

@description('Name of the outbox queue.')
param outbox string
param skuName string

@description('Subnet for private endpoints; empty: the public endpoint, with Entra tokens only.')
param endpointsSubnetId string
param blobZoneId string
param queueZoneId string
param tableZoneId string

var blobDataOwner = 'b7e6dc6d-f1e8-4753-8033-0f276bb0955b'
var queueDataContributor = '974c5e8b-45b9-4653-ba55-5f855dd0fb88'
var queueDataMessageSender = 'c6a89b2d-59bc-44d0-9896-0f6e12d7b80a'
var queueDataReader = '19e7f393-937e-4f77-808e-94535e297925'
var tableDataContributor = '0a9a7e1f-b9d0-4cc4-a60d-0319b160aaa3'
var isPrivate = !empty(endpointsSubnetId)
var endpoints = [
  { service: 'blob', zone: blobZoneId }
  { service: 'queue', zone: queueZoneId }
  { service: 'table', zone: tableZoneId }
]
var counted = {
  principalId: principalId
  principalType: 'ServicePrincipal'
  roleDefinitionIdOrName: queueDataReader
  description: 'The relay counts what is there.'
}

module account 'br/public:avm/res/storage/storage-account:0.33.0' = {
  name: 'storage-account'
  params: {
    name: take('strelay${token}', 24)
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
    privateEndpoints: [
      for endpoint in (isPrivate ? endpoints : []): {
        service: endpoint.service
        subnetResourceId: endpointsSubnetId
        privateDnsZoneGroup: {
          privateDnsZoneGroupConfigs: [{ privateDnsZoneResourceId: endpoint.zone }]
        }
        enableTelemetry: false
      }
    ]
    roleAssignments: [
      {
        principalId: principalId
        principalType: 'ServicePrincipal'
        roleDefinitionIdOrName: blobDataOwner
        description: 'The Functions host keeps its locks and keys here.'
      }
      {
        principalId: principalId
        principalType: 'ServicePrincipal'
        roleDefinitionIdOrName: tableDataContributor
        description: 'The Functions host keeps its diagnostic events here.'
      }
    ]
    blobServices: {
      deleteRetentionPolicyEnabled: true
      deleteRetentionPolicyDays: 7
      containerDeleteRetentionPolicyEnabled: true
      containerDeleteRetentionPolicyDays: 7
    }
    queueServices: {
      queues: [
        {
          name: outbox
          roleAssignments: [
            {
              principalId: principalId
              principalType: 'ServicePrincipal'
              // Message Processor is not enough: showing a message again later is an update, and
              // without that right it would stay hidden for ten minutes instead of ten seconds.
              roleDefinitionIdOrName: queueDataContributor
              description: 'The relay writes, reads, postpones and deletes what it holds.'
            }
          ]
        }
        {
          name: '${outbox}-poison'
          roleAssignments: [
            {
              principalId: principalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: queueDataMessageSender
              description: 'The Functions host puts aside what cannot be opened.'
            }
            counted
          ]
        }
        {
          name: '${outbox}-dead'
          roleAssignments: [
            {
              principalId: principalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: queueDataMessageSender
              description: 'The relay puts aside what will never be delivered.'
            }
            counted
          ]
        }
        {
          name: '${outbox}-doctor'
          roleAssignments: [
            {
              principalId: principalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: queueDataContributor
              description: 'The relay takes the orders of `doctor --app`.'
            }
          ]
        }
        {
          name: '${outbox}-doctor-report'
          roleAssignments: [
            {
              principalId: principalId
              principalType: 'ServicePrincipal'
              roleDefinitionIdOrName: queueDataMessageSender
              description: 'The relay writes what its doctor has found.'
            }
          ]
        }
      ]
    }
    enableTelemetry: false
  }
}

output name string = account.outputs.name
// Not `primaryBlobEndpoint`: the module leaves that empty where it makes no container.
output blobEndpoint string = account.outputs.serviceEndpoints.blob
output queueEndpoint string = account.outputs.serviceEndpoints.queue
output tableEndpoint string = account.outputs.serviceEndpoints.table
