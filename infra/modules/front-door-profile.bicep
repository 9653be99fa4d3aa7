// The Front Door itself, before the app: the app's access restriction needs its id.
// Not the verified module: that has no log scrubbing, and without it every code is in the log.
// https://learn.microsoft.com/azure/frontdoor/standard-premium/sensitive-data-protection
param token string
param tags object
param workspaceId string

resource profile 'Microsoft.Cdn/profiles@2025-12-01' = {
  name: 'afd-relay-${token}'
  location: 'global'
  tags: tags
  sku: { name: 'Standard_AzureFrontDoor' }
  properties: {
    originResponseTimeoutSeconds: 60
    logScrubbing: {
      state: 'Enabled'
      scrubbingRules: [
        {
          matchVariable: 'QueryStringArgNames'
          selectorMatchOperator: 'EqualsAny'
          state: 'Enabled'
        }
      ]
    }
  }
}

resource diagnostics 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'edge'
  scope: profile
  properties: {
    workspaceId: workspaceId
    logs: [
      { category: 'FrontDoorAccessLog', enabled: true }
      { category: 'FrontDoorWebApplicationFirewallLog', enabled: true }
    ]
    metrics: [{ category: 'AllMetrics', enabled: true }]
  }
}

output name string = profile.name
output frontDoorId string = profile.properties.frontDoorId
