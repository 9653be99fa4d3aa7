// The workspace for the log lines. Ingestion takes Entra tokens only, and no key that could leak.
param token string
param location string
param tags object

@description('Object id of the identity that may write telemetry.')
param principalId string
param retentionDays int
param dailyQuotaGb string

var monitoringMetricsPublisher = '3913510d-42f4-4e42-8a64-420c390055eb'

module workspace 'br/public:avm/res/operational-insights/workspace:0.16.1' = {
  name: 'workspace'
  params: {
    name: 'log-relay-${token}'
    location: location
    tags: tags
    dataRetention: retentionDays
    dailyQuotaGb: dailyQuotaGb
    // The module's default wants a cluster with a key of one's own, without which queries fail.
    forceCmkForQuery: false
    features: {
      disableLocalAuth: true
      enableLogAccessUsingOnlyResourcePermissions: true
    }
    savedSearches: [
      {
        name: 'relay-callbacks'
        category: 'OAuth callback relay'
        displayName: 'Callbacks, one row each outcome line'
        query: '${loadTextContent('../queries/callbacks.kql')}\ncallbacks'
        functionAlias: 'RelayCallbacks'
        version: 2
        // Without it a second deployment is refused, because the search exists.
        etag: '*'
      }
      {
        name: 'relay-story'
        category: 'OAuth callback relay'
        displayName: 'The story of one reference'
        query: '${loadTextContent('../queries/callbacks.kql')}\n${loadTextContent('../queries/story.kql')}'
        version: 2
        etag: '*'
      }
    ]
    enableTelemetry: false
  }
}

module insights 'br/public:avm/res/insights/component:0.8.0' = {
  name: 'insights'
  params: {
    name: 'appi-relay-${token}'
    location: location
    tags: tags
    workspaceResourceId: workspace.outputs.resourceId
    disableLocalAuth: true
    disableIpMasking: false
    retentionInDays: 90
    roleAssignments: [
      {
        principalId: principalId
        principalType: 'ServicePrincipal'
        roleDefinitionIdOrName: monitoringMetricsPublisher
        description: 'The relay writes its telemetry.'
      }
    ]
    enableTelemetry: false
  }
}

output workspaceId string = workspace.outputs.resourceId
output connectionString string = insights.outputs.connectionString
output insightsId string = insights.outputs.resourceId
