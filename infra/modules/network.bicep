// An optional virtual network, with private endpoints for storage and Key Vault.
param token string
param location string
param tags object

var zones = [
  'privatelink.blob.${environment().suffixes.storage}'
  'privatelink.queue.${environment().suffixes.storage}'
  'privatelink.table.${environment().suffixes.storage}'
  // `vaultDns` is `.vault.azure.net`, the private zone is named `vaultcore` in its place.
  'privatelink${replace(environment().suffixes.keyvaultDns, 'vault', 'vaultcore')}'
]

module vnet 'br/public:avm/res/network/virtual-network:0.10.1' = {
  name: 'vnet'
  params: {
    name: 'vnet-relay-${token}'
    location: location
    tags: tags
    addressPrefixes: ['10.61.0.0/24']
    subnets: [
      {
        name: 'app'
        addressPrefix: '10.61.0.0/26'
        delegation: 'Microsoft.App/environments'
      }
      {
        name: 'endpoints'
        addressPrefix: '10.61.0.64/27'
        privateEndpointNetworkPolicies: 'Enabled'
        defaultOutboundAccess: false
      }
    ]
    enableTelemetry: false
  }
}

module zone 'br/public:avm/res/network/private-dns-zone:0.8.1' = [
  for (zoneName, index) in zones: {
    name: 'private-dns-zone-${index}'
    params: {
      name: zoneName
      tags: tags
      virtualNetworkLinks: [{ virtualNetworkResourceId: vnet.outputs.resourceId }]
      enableTelemetry: false
    }
  }
]

output appSubnetId string = vnet.outputs.subnetResourceIds[0]
output endpointsSubnetId string = vnet.outputs.subnetResourceIds[1]
output blobZoneId string = zone[0].outputs.resourceId
output queueZoneId string = zone[1].outputs.resourceId
output tableZoneId string = zone[2].outputs.resourceId
output vaultZoneId string = zone[3].outputs.resourceId
