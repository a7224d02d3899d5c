#!/usr/bin/env bash
# Autoscale for a managed online deployment: instances follow the CPU, within MIN and MAX.
#
#   deploy/autoscale.sh ENDPOINT [DEPLOYMENT=blue] [MIN=1] [MAX=4]
#
# Managed deployments scale by Azure Monitor, not by a scale_settings in the YAML. Run it again to change the limits; undo it
# with: az monitor autoscale delete --name autoscale-ENDPOINT-DEPLOYMENT
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
endpoint=$1 deployment=${2:-blue} min=${3:-1} max=${4:-4}
if ! command -v az >/dev/null; then
  echo "the Azure CLI (az) is not installed: https://aka.ms/azure-cli" >&2
  exit 1
fi

resource=$(az ml online-deployment show --endpoint-name "$endpoint" --name "$deployment" --query id --output tsv)
name="autoscale-$endpoint-$deployment"

az monitor autoscale create --name "$name" --resource "$resource" --min-count "$min" --max-count "$max" --count "$min"
# Out at 70 %: a new instance takes minutes (it pulls the image and the model), and the load goes on rising meanwhile.
az monitor autoscale rule create --autoscale-name "$name" --condition "CpuUtilizationPercentage > 70 avg 5m" --scale out 1
# In at 25 %, so that what is left of two instances runs at 50 %, far enough from 70 %.
az monitor autoscale rule create --autoscale-name "$name" --condition "CpuUtilizationPercentage < 25 avg 10m" --scale in 1
echo "$endpoint/$deployment: $min to $max instances, as $name"
