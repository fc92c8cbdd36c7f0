{{- define "deputy-agent.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "deputy-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "deputy-agent.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | required "serviceAccount.name is needed with serviceAccount.create: false" -}}
{{- end -}}
{{- end -}}

{{- define "deputy-agent.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "deputy-agent.labels" -}}
{{ include "deputy-agent.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* What the schema cannot say: one value against another. */ -}}
{{- define "deputy-agent.check" -}}
{{- $https := hasPrefix "https://" .Values.manager.url -}}
{{- $ca := .Values.manager.ca -}}
{{- if and $https (not $ca.pem) (not $ca.sha256) -}}
{{- fail "manager.ca.pem or manager.ca.sha256 is needed: the agent checks an https manager with it and with nothing else" -}}
{{- end -}}
{{- if and $ca.pem $ca.sha256 -}}
{{- fail "manager.ca.pem and manager.ca.sha256 are both set; leave one of them away" -}}
{{- end -}}
{{- $with := .Values.join.with -}}
{{- if and $https (eq $with "kubernetes") (not .Values.manager.trustDomain) -}}
{{- fail "manager.trustDomain is needed: the service account's token is made for deputy/<trustDomain>" -}}
{{- end -}}
{{- if and $https (eq $with "token") (not .Values.join.token.existingSecret) -}}
{{- fail "join.token.existingSecret is needed with join.with: token" -}}
{{- end -}}
{{- if and (ne $with "token") .Values.join.token.existingSecret -}}
{{- fail (printf "join.token.existingSecret is set, and join.with is %s; leave one of them away" $with) -}}
{{- end -}}
{{- if and .Values.policy.cedar .Values.policy.allowAll -}}
{{- fail "policy.cedar and policy.allowAll are both set; leave one of them away" -}}
{{- end -}}
{{- if not (or .Values.policy.cedar .Values.policy.allowAll) -}}
{{- fail "policy.cedar is needed: without a policy nothing runs. (policy.allowAll: true runs whatever the manager sends.)" -}}
{{- end -}}
{{- if ge (int .Values.agent.graceSeconds) (int .Values.agent.drainTimeoutSeconds) -}}
{{- fail "agent.graceSeconds must be less than agent.drainTimeoutSeconds: scripts are told to stop within it" -}}
{{- end -}}
{{- $config := .Values.agent.config -}}
{{- range $key := list "connect_timeout" "reconnect_base" "reconnect_max" -}}
{{- with index $config $key -}}
{{- if gt (int64 (include "deputy-agent.milliseconds" .)) 31622400000 -}}
{{- fail (printf "agent.config.%s is longer than 366 days" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $base := $config.reconnect_base | default "1s" -}}
{{- $max := $config.reconnect_max | default "60s" -}}
{{- if gt (int64 (include "deputy-agent.milliseconds" $base)) (int64 (include "deputy-agent.milliseconds" $max)) -}}
{{- fail (printf "agent.config.reconnect_base (%s) must not be longer than agent.config.reconnect_max (%s)" $base $max) -}}
{{- end -}}
{{- $all := $config.spool_limit | default "1GiB" -}}
{{- $one := $config.spool_task_limit | default "256MiB" -}}
{{- if gt (int64 (include "deputy-agent.kibibytes" $one)) (int64 (include "deputy-agent.kibibytes" $all)) -}}
{{- fail (printf "agent.config.spool_task_limit (%s) must not be more than agent.config.spool_limit (%s)" $one $all) -}}
{{- end -}}
{{- end -}}

{{- /* A duration that the schema let through. */ -}}
{{- define "deputy-agent.milliseconds" -}}
{{- $sum := 0 -}}
{{- range $unit, $milliseconds := dict "d" 86400000 "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- /* 5m is none of 5ms: what follows a unit is a digit or nothing. */ -}}
{{- with regexFind (printf "[0-9]+%s([0-9]|$)" $unit) $ -}}
{{- $sum = add $sum (mul (int64 (regexFind "[1-9][0-9]*" (regexFind "^[0-9]+" .) | default "0")) $milliseconds) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- /* A size that the schema let through. */ -}}
{{- define "deputy-agent.kibibytes" -}}
{{- $unit := regexFind "[A-Z]" . -}}
{{- mul (int64 (regexFind "[1-9][0-9]*" .)) (get (dict "K" 1 "M" 1024 "G" 1048576 "T" 1073741824) $unit) -}}
{{- end -}}

{{- /* agent.toml: a JSON string is a TOML string. */ -}}
{{- define "deputy-agent.config" -}}
{{- $https := hasPrefix "https://" .Values.manager.url -}}
manager = {{ .Values.manager.url | toJson }}
transport = {{ .Values.manager.transport | toJson }}
{{- with .Values.manager.ca.pem }}
ca_file = "/etc/deputy/ca.pem"
{{- end }}
{{- with .Values.manager.ca.sha256 }}
ca_sha256 = {{ . | toJson }}
{{- end }}
{{- with .Values.manager.trustDomain }}
trust_domain = {{ . | toJson }}
{{- end }}
{{- if $https }}
{{- if ne .Values.join.with "token" }}
join = {{ .Values.join.with | toJson }}
{{- end }}
{{- if ne .Values.join.with "aws" }}
join_token_file = "/var/run/secrets/deputy/token"
{{- end }}
{{- end }}
{{- if .Values.policy.cedar }}
policy_file = "/etc/deputy/policy.cedar"
{{- else }}
allow_all = true
{{- end }}
{{- if .Values.poolKey.existingSecret }}
pool_key_file = "/var/run/secrets/deputy-pool/pool-key"
{{- end }}
slots = {{ .Values.agent.slots }}
drain_timeout = "{{ .Values.agent.drainTimeoutSeconds }}s"
grace = "{{ .Values.agent.graceSeconds }}s"
work_folder = "/var/lib/deputy/agent"
health_listen = "{{ eq .Values.agent.healthAddress "::" | ternary "[::]" .Values.agent.healthAddress }}:8080"
confinement = {{ .Values.agent.confinement | toJson }}
{{- with .Values.agent.writableFolders }}
writable_folders = {{ join "," . | toJson }}
{{- end }}
log_level = {{ .Values.agent.logLevel | toJson }}
log_format = {{ .Values.agent.logFormat | toJson }}
{{- range $key, $value := .Values.agent.config }}
{{ $key }} = {{ $value | toJson }}
{{- end }}
{{- with .Values.agent.labels }}

[labels]
{{- range $key, $value := . }}
{{ $key | toJson }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- end -}}
