//! The table of API surfaces: one line a resource.
//!
//! ```text
//! group NAME
//! version NAME [@WHEN]
//! RESOURCE KIND ns|cluster VERBS [@WHEN] [sn=SHORT,NAMES] [cat=CATEGORIES] [stored=[GROUP/]VERSION[@WHEN]] [/SUB...]
//! /SUB[=[GROUP/VERSION/]KIND][:VERBS][@WHEN]
//! ```
//!
//! VERBS are letters: c create, d delete, D deletecollection, g get, l list, p patch, u update, w watch; `*` is all.
//! WHEN names the minors that have the line, by comma: `33`, `33-`, `-32`, `33-35`. A letter before it says what it
//! takes: none is on by default, `a` needs `--runtime-config=api/all=true`, `g` a feature gate besides. A resource's
//! WHEN replaces its version's. A subresource has its parent's kind and `gpu`, `scale` the kind autoscaling/v1 Scale,
//! unless it says otherwise. `stored` is the version that etcd holds, where it is another one.
//!
//! Lines stand in the order of the servers' own documents: groups and versions by priority
//! (cmd/kube-apiserver/app/aggregator.go, kube-aggregator's DefaultGenericAPIServicePriorities), resources by name.

pub(super) const TABLE: &str = "
group core
version v1
bindings Binding ns c
componentstatuses ComponentStatus cluster gl sn=cs
configmaps ConfigMap ns * sn=cm
endpoints Endpoints ns * sn=ep
events Event ns * sn=ev
limitranges LimitRange ns * sn=limits
namespaces Namespace cluster cdglpuw sn=ns /finalize:u /status
nodes Node cluster * sn=no /proxy=NodeProxyOptions:cdgpu /status
persistentvolumeclaims PersistentVolumeClaim ns * sn=pvc /status
persistentvolumes PersistentVolume cluster * sn=pv /status
pods Pod ns * sn=po cat=all /attach=PodAttachOptions:cg /binding=Binding:c /ephemeralcontainers /eviction=policy/v1/Eviction:c /exec=PodExecOptions:cg /log:g /portforward=PodPortForwardOptions:cg /proxy=PodProxyOptions:cdgpu /resize@g32,33- /status
podtemplates PodTemplate ns *
replicationcontrollers ReplicationController ns * sn=rc cat=all /scale /status
resourcequotas ResourceQuota ns * sn=quota /status
secrets Secret ns *
serviceaccounts ServiceAccount ns * sn=sa /token=authentication.k8s.io/v1/TokenRequest:c
services Service ns * sn=svc cat=all /proxy=ServiceProxyOptions:cdgpu /status

group apiregistration.k8s.io
version v1
apiservices APIService cluster * cat=api-extensions /status

group apps
version v1
controllerrevisions ControllerRevision ns *
daemonsets DaemonSet ns * sn=ds cat=all /status
deployments Deployment ns * sn=deploy cat=all /scale /status
replicasets ReplicaSet ns * sn=rs cat=all /scale /status
statefulsets StatefulSet ns * sn=sts cat=all /scale /status

group events.k8s.io
version v1
events Event ns * sn=ev stored=core/v1

group authentication.k8s.io
version v1
selfsubjectreviews SelfSubjectReview cluster c
tokenreviews TokenReview cluster c
version v1beta1 @a-32
selfsubjectreviews SelfSubjectReview cluster c
version v1alpha1 @a-31
selfsubjectreviews SelfSubjectReview cluster c

group authorization.k8s.io
version v1
localsubjectaccessreviews LocalSubjectAccessReview ns c
selfsubjectaccessreviews SelfSubjectAccessReview cluster c
selfsubjectrulesreviews SelfSubjectRulesReview cluster c
subjectaccessreviews SubjectAccessReview cluster c

group autoscaling
version v2
horizontalpodautoscalers HorizontalPodAutoscaler ns * sn=hpa cat=all /status
version v1
horizontalpodautoscalers HorizontalPodAutoscaler ns * sn=hpa cat=all stored=v2 /status

group batch
version v1
cronjobs CronJob ns * sn=cj cat=all /status
jobs Job ns * cat=all /status

group certificates.k8s.io
version v1
certificatesigningrequests CertificateSigningRequest cluster * sn=csr /approval /status
version v1beta1 @g33-
clustertrustbundles ClusterTrustBundle cluster * stored=v1alpha1@33
podcertificaterequests PodCertificateRequest ns * @g35- /status
version v1alpha1 @g
clustertrustbundles ClusterTrustBundle cluster * stored=v1beta1@34-
podcertificaterequests PodCertificateRequest ns * @g34 /status

group networking.k8s.io
version v1
ingressclasses IngressClass cluster *
ingresses Ingress ns * sn=ing /status
ipaddresses IPAddress cluster * @33- sn=ip stored=v1beta1@33
networkpolicies NetworkPolicy ns * sn=netpol
servicecidrs ServiceCIDR cluster * @33- stored=v1beta1@33 /status
version v1beta1 @a
ipaddresses IPAddress cluster * sn=ip stored=v1@34-
servicecidrs ServiceCIDR cluster * stored=v1@34- /status

group policy
version v1
poddisruptionbudgets PodDisruptionBudget ns * sn=pdb /status

group rbac.authorization.k8s.io
version v1
clusterrolebindings ClusterRoleBinding cluster *
clusterroles ClusterRole cluster *
rolebindings RoleBinding ns *
roles Role ns *

group storage.k8s.io
version v1
csidrivers CSIDriver cluster *
csinodes CSINode cluster *
csistoragecapacities CSIStorageCapacity ns *
storageclasses StorageClass cluster * sn=sc
volumeattachments VolumeAttachment cluster * /status
volumeattributesclasses VolumeAttributesClass cluster * @34- sn=vac stored=v1beta1@34
version v1beta1 @a
volumeattributesclasses VolumeAttributesClass cluster * sn=vac stored=v1@35-
version v1alpha1 @a-34
volumeattributesclasses VolumeAttributesClass cluster * sn=vac stored=v1beta1

group admissionregistration.k8s.io
version v1
mutatingadmissionpolicies MutatingAdmissionPolicy cluster * @36- cat=api-extensions stored=v1beta1@36
mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding cluster * @36- cat=api-extensions stored=v1beta1@36
mutatingwebhookconfigurations MutatingWebhookConfiguration cluster * cat=api-extensions
validatingadmissionpolicies ValidatingAdmissionPolicy cluster * cat=api-extensions /status
validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding cluster * cat=api-extensions
validatingwebhookconfigurations ValidatingWebhookConfiguration cluster * cat=api-extensions
version v1beta1 @a
mutatingadmissionpolicies MutatingAdmissionPolicy cluster * @a34- cat=api-extensions stored=v1alpha1@34
mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding cluster * @a34- cat=api-extensions stored=v1alpha1@34
validatingadmissionpolicies ValidatingAdmissionPolicy cluster * @a-33 cat=api-extensions stored=v1 /status
validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding cluster * @a-33 cat=api-extensions stored=v1
version v1alpha1 @a
mutatingadmissionpolicies MutatingAdmissionPolicy cluster * @a32- cat=api-extensions stored=v1beta1@35-
mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding cluster * @a32- cat=api-extensions stored=v1beta1@35-
validatingadmissionpolicies ValidatingAdmissionPolicy cluster * @a-31 cat=api-extensions stored=v1 /status
validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding cluster * @a-31 cat=api-extensions stored=v1

group apiextensions.k8s.io
version v1
customresourcedefinitions CustomResourceDefinition cluster * sn=crd,crds cat=api-extensions stored=v1beta1 /status

group scheduling.k8s.io
version v1
priorityclasses PriorityClass cluster * sn=pc
version v1alpha2 @g36-
podgroups PodGroup ns * /status
workloads Workload ns *
version v1alpha1 @g35
workloads Workload ns *

group coordination.k8s.io
version v1
leases Lease ns *
version v1beta1 @a33-
leasecandidates LeaseCandidate ns * stored=v1alpha2@33
version v1alpha2 @a32-
leasecandidates LeaseCandidate ns * stored=v1beta1@34-
version v1alpha1 @a-31
leasecandidates LeaseCandidate ns *

group node.k8s.io
version v1
runtimeclasses RuntimeClass cluster *

group discovery.k8s.io
version v1
endpointslices EndpointSlice ns *

group resource.k8s.io
version v1 @34-
deviceclasses DeviceClass cluster * stored=v1beta1@34
resourceclaims ResourceClaim ns * stored=v1beta1@34 /status
resourceclaimtemplates ResourceClaimTemplate ns * stored=v1beta1@34
resourceslices ResourceSlice cluster * stored=v1beta1@34
version v1beta2 @g33,a34-
deviceclasses DeviceClass cluster * stored=v1beta1@-34,v1@35-
devicetaintrules DeviceTaintRule cluster * @a36- stored=v1alpha3@36 /status
resourceclaims ResourceClaim ns * stored=v1beta1@-34,v1@35- /status
resourceclaimtemplates ResourceClaimTemplate ns * stored=v1beta1@-34,v1@35-
resourceslices ResourceSlice cluster * stored=v1beta1@-34,v1@35-
version v1beta1 @g32-33,a34-
deviceclasses DeviceClass cluster * stored=v1alpha3@32,v1@35-
resourceclaims ResourceClaim ns * stored=v1alpha3@32,v1@35- /status
resourceclaimtemplates ResourceClaimTemplate ns * stored=v1alpha3@32,v1@35-
resourceslices ResourceSlice cluster * stored=v1alpha3@32,v1@35-
version v1alpha3 @g32-33
deviceclasses DeviceClass cluster * stored=v1beta1@33
devicetaintrules DeviceTaintRule cluster * @g33-35,a36- /status@35-
resourceclaims ResourceClaim ns * stored=v1beta1@33 /status
resourceclaimtemplates ResourceClaimTemplate ns * stored=v1beta1@33
resourcepoolstatusrequests ResourcePoolStatusRequest cluster * @a36- /status
resourceslices ResourceSlice cluster * stored=v1beta1@33

group flowcontrol.apiserver.k8s.io
version v1
flowschemas FlowSchema cluster * /status
prioritylevelconfigurations PriorityLevelConfiguration cluster * /status
version v1beta3 @-31
flowschemas FlowSchema cluster * stored=v1 /status
prioritylevelconfigurations PriorityLevelConfiguration cluster * stored=v1 /status

group internal.apiserver.k8s.io
version v1alpha1 @a
storageversions StorageVersion cluster * /status

group resource.k8s.io
version v1alpha3 @g-31
deviceclasses DeviceClass cluster *
podschedulingcontexts PodSchedulingContext ns * /status
resourceclaims ResourceClaim ns * /status
resourceclaimtemplates ResourceClaimTemplate ns *
resourceslices ResourceSlice cluster *

group storagemigration.k8s.io
version v1beta1 @g35-
storageversionmigrations StorageVersionMigration cluster * /status
version v1alpha1 @g-34
storageversionmigrations StorageVersionMigration cluster * /status
";
