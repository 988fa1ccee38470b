variable "project" {
  type        = string
  description = "Google Cloud project, with billing and quota for H100s"
}

variable "bucket" {
  type        = string
  description = "Name of the bucket to make, without gs://"
}

variable "region" {
  type        = string
  description = "Region of cluster, bucket and registry"
  default     = "us-central1"
}

variable "zones" {
  type        = list(string)
  description = "Zones of the CPU nodes"
  default     = ["us-central1-a"]
}

variable "h100_zones" {
  type        = list(string)
  description = "Zones of the region that have a3-highgpu machines"
  default     = ["us-central1-a", "us-central1-b", "us-central1-c"]
}

variable "cluster" {
  type        = string
  description = "Name of the cluster"
  default     = "scgpt-perturb"
}
