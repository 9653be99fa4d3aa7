"""What the scanner looks at: an ARM template of the resources that the verified modules make.

The parameters of a module do not bear ARM's names. Only those stand here that a module passes on
unchanged, under the name that ARM has for them: `COMMON`. tests/infra/test_compiler.py compares the
result with that of Microsoft's compiler, where there is one.
"""

from typing import Any

from tests.infra.view import INFRA, used

MODULES = INFRA / "modules"

ACCOUNT = "Microsoft.Storage/storageAccounts"
VAULT = "Microsoft.KeyVault/vaults"
SITE = "Microsoft.Web/sites"
PLAN = "Microsoft.Web/serverfarms"
INSIGHTS = "Microsoft.Insights/components"

COMMON: dict[str, dict[str, str]] = {
    ACCOUNT: {
        "allowBlobPublicAccess": "allowBlobPublicAccess",
        "allowCrossTenantReplication": "allowCrossTenantReplication",
        "allowSharedKeyAccess": "allowSharedKeyAccess",
        "defaultToOAuthAuthentication": "defaultToOAuthAuthentication",
        "minimumTlsVersion": "minimumTlsVersion",
        "networkAcls": "networkAcls",
        "publicNetworkAccess": "publicNetworkAccess",
        "supportsHttpsTrafficOnly": "supportsHttpsTrafficOnly",
    },
    VAULT: {
        "enablePurgeProtection": "enablePurgeProtection",
        "enableRbacAuthorization": "enableRbacAuthorization",
        "enableSoftDelete": "enableSoftDelete",
        "enableVaultForDeployment": "enabledForDeployment",
        "enableVaultForDiskEncryption": "enabledForDiskEncryption",
        "enableVaultForTemplateDeployment": "enabledForTemplateDeployment",
        "networkAcls": "networkAcls",
        "publicNetworkAccess": "publicNetworkAccess",
        "softDeleteRetentionInDays": "softDeleteRetentionInDays",
    },
    SITE: {
        "clientAffinityEnabled": "clientAffinityEnabled",
        "functionAppConfig": "functionAppConfig",
        "httpsOnly": "httpsOnly",
        "publicNetworkAccess": "publicNetworkAccess",
        "siteConfig": "siteConfig",
    },
    PLAN: {"reserved": "reserved", "zoneRedundant": "zoneRedundant"},
    INSIGHTS: {"disableIpMasking": "DisableIpMasking", "disableLocalAuth": "DisableLocalAuth"},
}
"""For each type: a module's parameter, and the property that ARM has it under."""

VERSIONS = {
    ACCOUNT: "2023-01-01",
    VAULT: "2023-07-01",
    SITE: "2025-03-01",
    PLAN: "2025-03-01",
    INSIGHTS: "2020-02-02",
}


def templates() -> dict[str, dict[str, Any]]:
    """Return the templates by the name of their parameter file in infra/snapshots."""
    return {"default": template(private=False), "private": template(private=True)}


def template(*, private: bool) -> dict[str, Any]:
    """Return an ARM template of what the modules make."""
    subnet = "/subnets/endpoints" if private else ""
    account = used(
        MODULES / "storage.bicep",
        "avm/res/storage/storage-account",
        endpointsSubnetId=subnet,
        skuName="Standard_LRS" if private else "Standard_ZRS",
    )
    vault = used(MODULES / "vault.bicep", "avm/res/key-vault/vault", endpointsSubnetId=subnet)
    site = used(MODULES / "app.bicep", "avm/res/web/site", frontDoorId="")
    plan = used(MODULES / "app.bicep", "avm/res/web/serverfarm")
    insights = used(MODULES / "monitoring.bicep", "avm/res/insights/component")
    identity = {"type": "UserAssigned", "userAssignedIdentities": {"/identity": {}}}
    flex = {"name": plan["skuName"], "tier": "FlexConsumption", "capacity": 0}
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [
            resource(ACCOUNT, account, kind=account["kind"], sku={"name": account["skuName"]}),
            resource(VAULT, vault),
            resource(SITE, site, kind=site["kind"], identity=identity),
            resource(PLAN, plan, kind=plan["kind"], sku=flex),
            resource(INSIGHTS, insights, kind="web"),
        ],
    }


def resource(type_: str, params: dict[str, Any], **outside: Any) -> dict[str, Any]:
    """Return a resource with those of a module's parameters that ARM knows."""
    properties = {arm: params[name] for name, arm in COMMON[type_].items()}
    return {
        "type": type_,
        "apiVersion": VERSIONS[type_],
        "name": type_.rpartition("/")[2].lower(),
        "location": "westeurope",
        "properties": properties,
        **outside,
    }
