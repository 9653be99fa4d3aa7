// Front Door with a custom domain, the identity as the client, and the availability test.
using '../main.bicep'

param environmentName = 'snapshot'
param location = 'westeurope'
param dynamicsUrl = 'https://contoso.crm.dynamics.com/api/data/v9.2/oacb_oauthcallbacks'
param identityIsClient = true
param frontDoor = true
param customDomain = 'callback.contoso.com'
param availabilityTest = true
param alwaysReadyHttp = 1
