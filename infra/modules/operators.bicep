// What the people who run the relay need for `doctor --app` and `dead-letters --app`, and no more
// (docs/commands.md).
param token string

@description('Object id of their group in Entra.')
param groupId string
param appName string
param storageName string

@description('Name of the outbox queue.')
param outbox string

var queueDataMessageProcessor = '8a0f0c08-91a1-4084-bc3d-661d67233fed'
var queueDataMessageSender = 'c6a89b2d-59bc-44d0-9896-0f6e12d7b80a'
var queueDataReader = '19e7f393-937e-4f77-808e-94535e297925'
var grants = [
  { queue: '${outbox}-doctor', role: queueDataMessageSender }
  { queue: '${outbox}-doctor-report', role: queueDataMessageProcessor }
  { queue: '${outbox}-dead', role: queueDataReader }
  { queue: '${outbox}-dead', role: queueDataMessageProcessor }
  { queue: '${outbox}-poison', role: queueDataReader }
]
// No role of Azure's own reads app settings without writing them: Website Contributor deploys code.
var readsSettings = ['Microsoft.Web/sites/read', 'Microsoft.Web/sites/config/list/action']

resource account 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageName
}

resource service 'Microsoft.Storage/storageAccounts/queueServices@2024-01-01' existing = {
  parent: account
  name: 'default'
}

resource queues 'Microsoft.Storage/storageAccounts/queueServices/queues@2024-01-01' existing = [
  for grant in grants: {
    parent: service
    name: grant.queue
  }
]

resource onQueues 'Microsoft.Authorization/roleAssignments@2022-04-01' = [
  for (grant, index) in grants: {
    name: guid(queues[index].id, groupId, grant.role)
    scope: queues[index]
    properties: {
      principalId: groupId
      principalType: 'Group'
      roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', grant.role)
      description: 'For doctor --app and dead-letters --app.'
    }
  }
]

resource reader 'Microsoft.Authorization/roleDefinitions@2022-04-01' = {
  name: guid(resourceGroup().id, token)
  properties: {
    roleName: 'OAuth callback relay: reader of settings (${token})'
    description: 'Finds the Function App and reads its app settings.'
    type: 'CustomRole'
    permissions: [{ actions: readsSettings }]
    assignableScopes: [resourceGroup().id]
  }
}

resource site 'Microsoft.Web/sites@2024-04-01' existing = {
  name: appName
}

resource onApp 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(site.id, groupId, reader.name)
  scope: site
  properties: {
    principalId: groupId
    principalType: 'Group'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', reader.name)
    description: 'For doctor --app and dead-letters --app.'
  }
}
