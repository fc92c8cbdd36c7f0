"""What a test finds in the emulated cloud, and may wish for.

Two accounts, as in the examples: `000000000000`, where the agent lives with its role `deputy-agent`, and
`222222222222`, whose role `deployer` trusts that role with an external id. Everything is made through the emulator's
API as each account's root (access key = account id, secret `test`).
"""

import json
import time

import botocore.session
import web_identity
from botocore.config import Config

HOME, AWAY = "000000000000", "222222222222"
REGION = "eu-west-1"
EXTERNAL_ID = "deputy-demo"
# The issuer of a cluster's service-account tokens, and the account that the agent has in it.
ISSUER = "oidc.eks.eu-west-1.amazonaws.com/id/DEPUTY"
SERVICE_ACCOUNT = "system:serviceaccount:deputy:deputy-agent"
EDIT_POLICY = "arn:aws:eks::aws:cluster-access-policy/AmazonEKSEditPolicy"

NODE = {
    "apiVersion": "v1", "kind": "Node",
    "metadata": {"name": "n1", "labels": {"type": "kwok"}, "annotations": {"kwok.x-k8s.io/node": "fake"}},
    "status": {"allocatable": {"cpu": "256", "memory": "1024Gi", "pods": "2000"},
               "capacity": {"cpu": "256", "memory": "1024Gi", "pods": "2000"}},
}


def allow(*actions, resource="*"):
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": [*actions], "Resource": resource}]}


def trust(principal, external_id=None):
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": ["sts:AssumeRole", "sts:TagSession",
                                                                               "sts:SetSourceIdentity"]}
    if external_id:
        statement["Condition"] = {"StringEquals": {"sts:ExternalId": external_id}}
    return {"Version": "2012-10-17", "Statement": [statement]}


def trust_web_identity(account, issuer, subject, audience):
    return {"Effect": "Allow", "Principal": {"Federated": f"arn:aws:iam::{account}:oidc-provider/{issuer}"},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {f"{issuer}:sub": subject, f"{issuer}:aud": audience}}}


class Scenery:
    def __init__(self, endpoint, clusters):
        self.endpoint, self.clusters = endpoint, clusters
        self.session = botocore.session.Session()
        self.namespaces = {}

    def client(self, service, account):
        return self.session.create_client(
            service, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id=account,
            aws_secret_access_key="test", config=Config(retries={"max_attempts": 3}))

    def accounts(self):
        """Both accounts with their roles; the ECS cluster `prod`."""
        self.client("iam", HOME).create_open_id_connect_provider(
            Url=f"https://{ISSUER}", ClientIDList=["sts.amazonaws.com"], ThumbprintList=["0" * 40])
        trusted = trust(f"arn:aws:iam::{HOME}:root")
        trusted["Statement"].append(trust_web_identity(HOME, ISSUER, SERVICE_ACCOUNT, "sts.amazonaws.com"))
        agent = self.role(HOME, "deputy-agent", trusted,
                          allow("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity", "kms:Decrypt"))
        deployer = self.role(AWAY, "deployer", trust(agent, EXTERNAL_ID),
                             allow("ecs:*", "eks:DescribeCluster", "iam:PassRole", "logs:*"))
        reader = self.role(AWAY, "reader", trust(agent, EXTERNAL_ID),
                           allow("ecs:Describe*", "ecs:List*", "eks:DescribeCluster"))
        execution = self.role(AWAY, "ecs-execution", {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}]},
            allow("logs:*"))
        self.role(AWAY, "eks", {"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"Service": "eks.amazonaws.com"}, "Action": "sts:AssumeRole"}]})
        for account in (HOME, AWAY):
            self.client("ecs", account).create_cluster(clusterName="prod")
        return {"agent_role": agent, "deployer_role": deployer, "reader_role": reader, "execution_role": execution,
                "external_id": EXTERNAL_ID, "region": REGION, "issuer": f"https://{ISSUER}",
                "service_account": SERVICE_ACCOUNT}

    def role(self, account, name, trusted, *policies, boundary=None):
        iam = self.client("iam", account)
        more = {}
        if boundary:
            made = iam.create_policy(PolicyName=f"{name}-boundary", PolicyDocument=json.dumps(boundary))
            more["PermissionsBoundary"] = made["Policy"]["Arn"]
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trusted), **more)["Role"]["Arn"]
        for number, policy in enumerate(policies):
            iam.put_role_policy(RoleName=name, PolicyName=f"p{number}", PolicyDocument=json.dumps(policy))
        return arn

    def wish_role(self, account, name, trusts, actions, external_id=None, boundary=None):
        """A role of a test's own, which may do `actions` as far as its boundary, if it has one, allows them too."""
        most = boundary and allow(*boundary)
        return {"arn": self.role(account, name, trust(trusts, external_id), allow(*actions), boundary=most)}

    def wish_oidc_provider(self, issuer, address, audiences):
        """An issuer that the account of `deployer` trusts, and where it is really asked for its keys."""
        self.client("iam", AWAY).create_open_id_connect_provider(
            Url=issuer, ClientIDList=audiences, ThumbprintList=["0" * 40])
        web_identity.ISSUERS[issuer] = (address, audiences)
        return {}

    def wish_web_identity_role(self, name, issuer, conditions, actions):
        """A role of a test's own that trusts tokens of an issuer under conditions."""
        host = issuer.removeprefix("https://")
        statement = {"Effect": "Allow", "Principal": {"Federated": f"arn:aws:iam::{AWAY}:oidc-provider/{host}"},
                     "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession"], "Condition": conditions}
        return {"arn": self.role(AWAY, name, {"Version": "2012-10-17", "Statement": [statement]}, allow(*actions))}

    def wish_ecs_cluster(self, name):
        return self.client("ecs", AWAY).create_cluster(clusterName=name)["cluster"]["clusterArn"]

    def wish_kubernetes(self, name, namespaces):
        """An EKS cluster with one node, where `deployer` may edit these namespaces and nothing else."""
        eks = self.client("eks", AWAY)
        eks.create_cluster(name=name, roleArn=f"arn:aws:iam::{AWAY}:role/eks", resourcesVpcConfig={"subnetIds": ["subnet-1"]},
                           accessConfig={"authenticationMode": "API"})
        self._wait_until_active(eks, name)
        cluster = self.clusters.named(name)
        cluster.request("POST", "/api/v1/nodes", json.dumps(NODE).encode())
        for namespace in namespaces:
            self._namespace(cluster, namespace)
        deployer = f"arn:aws:iam::{AWAY}:role/deployer"
        eks.create_access_entry(clusterName=name, principalArn=deployer)
        self.namespaces[name] = [*namespaces]
        self._associate(eks, name, deployer)
        self._wait_until_granted(cluster, namespaces)
        return {"name": name, "endpoint": f"https://localhost:{cluster.port}", "folder": str(cluster.folder)}

    def wish_namespace(self, cluster, namespace):
        """Another namespace that `deployer` may edit."""
        self._namespace(self.clusters.named(cluster), namespace)
        self.namespaces[cluster].append(namespace)
        self._associate(self.client("eks", AWAY), cluster, f"arn:aws:iam::{AWAY}:role/deployer")
        self._wait_until_granted(self.clusters.named(cluster), [namespace])
        return {}

    def _namespace(self, cluster, name):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        cluster.request("POST", "/api/v1/namespaces", json.dumps(body).encode())

    def _associate(self, eks, cluster, principal):
        eks.associate_access_policy(clusterName=cluster, principalArn=principal, policyArn=EDIT_POLICY,
                                    accessScope={"type": "namespace", "namespaces": self.namespaces[cluster]})

    def _wait_until_active(self, eks, name):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if eks.describe_cluster(name=name)["cluster"]["status"] == "ACTIVE":
                failure = self.clusters.named(name).failure
                if failure:
                    raise RuntimeError(f"cluster {name} did not start: {failure}")
                return
            time.sleep(0.1)
        raise TimeoutError(f"cluster {name} was not ACTIVE within 120 s")

    def _wait_until_granted(self, cluster, namespaces):
        """The emulator turns access policies into RBAC in the background."""
        deadline = time.monotonic() + 60
        waiting = [*namespaces]
        while waiting and time.monotonic() < deadline:
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{waiting[0]}/rolebindings"
            if json.loads(cluster.request("GET", path))["items"]:
                waiting.pop(0)
            else:
                time.sleep(0.1)
        if waiting:
            raise TimeoutError(f"the access policy did not reach namespaces {waiting} within 60 s")
