// A private network, a registration that exists with a secret, a second connection and environment.
// A group of operators.
using '../main.bicep'

param environmentName = 'snapshot'
param location = 'westus'
param dynamicsUrl = 'https://contoso.crm.dynamics.com/api/data/v9.2/oacb_oauthcallbacks'
param entraClientId = '00000000-0000-0000-0000-000000000001'
param vaultSettings = ['ENTRA_CLIENT_SECRET']
param settings = { CODE_TTL: '60', OUTBOX_QUEUE: 'outbox' }
param connections = { xero: { DYNAMICS_URL: 'https://contoso.operations.dynamics.com/data/OAuthCallbacks' } }
param environments = { uat: { DYNAMICS_URL: 'https://contoso-uat.crm.dynamics.com/api/data/v9.2/oacb_oauthcallbacks' } }
param privateNetwork = true
param operatorsGroupId = '00000000-0000-0000-0000-000000000002'
param hostKeysInFiles = true
