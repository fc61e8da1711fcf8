#include "gpu_memory.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace nerve {

namespace {

constexpr size_t BLOCK_STEP_BYTES = 256;                // sizes are multiples of it, so that small tensors share blocks
constexpr size_t SPARE_LIMIT_BYTES = size_t{64} << 20;  // and never less than what is in use
constexpr size_t STAGED_LIMIT_BYTES = size_t{64} << 20;

size_t rounded(size_t bytes) { return (std::max<size_t>(bytes, 1) + BLOCK_STEP_BYTES - 1) / BLOCK_STEP_BYTES * BLOCK_STEP_BYTES; }

size_t tensor_bytes(ElementType type, const Shape& shape) { return element_count(shape) * element_bytes(type); }

}  // namespace

void check_cuda(cudaError_t error, const char* function) {
    if (error == cudaSuccess) return;
    const std::string what = concat({function, " says ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")"});
    cudaGetLastError();  // or a later call would say it again
    if (error == cudaErrorMemoryAllocation) fail(NERVE_RESOURCE, {"the GPU has no room left: ", what, GPU_MEMORY_ADVICE});
    fail(NERVE_COMPATIBILITY,
         {"TensorRT cannot use a GPU: ", what, "; check the driver with nvidia-smi, or use backend=\"ort\""});
}

void* MemoryPool::take(size_t bytes) {
    const size_t size = rounded(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto kept = spare_.find(size);
    void* address = nullptr;
    if (kept != spare_.end()) {
        address = kept->second;
        spare_.erase(kept);
        spare_bytes_ -= size;
    } else {
        if (spare_bytes_ > std::max(used_bytes_, SPARE_LIMIT_BYTES)) free_spare();
        const bool device = kind_ == MemoryKind::DEVICE;
        const cudaError_t error = device ? cudaMalloc(&address, size) : cudaMallocHost(&address, size);
        if (error == cudaErrorMemoryAllocation) free_spare();  // the next frame needs it
        check_cuda(error, device ? "cudaMalloc" : "cudaMallocHost");
    }
    used_bytes_ += size;
    return address;
}

void MemoryPool::give_back(void* address, size_t bytes) noexcept {
    const size_t size = rounded(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    used_bytes_ -= size;
    try {
        spare_.emplace(size, address);
        spare_bytes_ += size;
    } catch (const std::bad_alloc&) {
        kind_ == MemoryKind::DEVICE ? cudaFree(address) : cudaFreeHost(address);
    }
}

// CUDA ends work that still uses device memory first.
void MemoryPool::free_spare() noexcept {
    for (const auto& [size, address] : spare_) kind_ == MemoryKind::DEVICE ? cudaFree(address) : cudaFreeHost(address);
    spare_.clear();
    spare_bytes_ = 0;
}

Block::Block(std::shared_ptr<Gpu> gpu, MemoryKind kind, size_t bytes)
    : gpu_(std::move(gpu)), kind_(kind), bytes_(bytes), address_(gpu_->pool(kind).take(bytes)) {}

Block::Block(Block&& other) noexcept
    : gpu_(std::move(other.gpu_)), kind_(other.kind_), bytes_(other.bytes_), address_(other.address_) {}

Block::~Block() {
    if (gpu_) gpu_->pool(kind_).give_back(address_, bytes_);
}

Gpu::Gpu(int device) : device_(device) {
    use();
    int major = 0, minor = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    capability_ = concat({"sm", decimal(major), decimal(minor)});
    // Non-blocking: work that another library puts on the default stream would otherwise be waited for.
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

Gpu::~Gpu() {
    cudaSetDevice(device_);
    finish_quietly();
    give_back(staged_);
    cudaStreamDestroy(stream_);
}

void Gpu::use() const { check_cuda(cudaSetDevice(device_), "cudaSetDevice"); }

std::shared_ptr<const GpuTensor> Gpu::tensor(ElementType type, const Shape& shape) {
    return std::make_shared<GpuTensor>(type, shape, Block(shared_from_this(), MemoryKind::DEVICE, tensor_bytes(type, shape)));
}

std::shared_ptr<const GpuTensor> Gpu::upload(const Tensor& host) {
    const size_t bytes = tensor_bytes(host.type, host.shape);
    auto made = tensor(host.type, host.shape);
    staged_.reserve(staged_.size() + 1);
    const Staged staged = {pinned_pool_.take(bytes), bytes};
    staged_.push_back(staged);
    staged_bytes_ += bytes;
    std::memcpy(staged.address, host.host_view(), bytes);
    check_cuda(cudaMemcpyAsync(made->block.address(), staged.address, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
    if (staged_bytes_ > STAGED_LIMIT_BYTES) {
        check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
        give_back(staged_);
        staged_bytes_ = 0;
    }
    return made;
}

std::vector<TensorPtr> Gpu::download(const std::vector<std::shared_ptr<const GpuTensor>>& tensors) {
    std::vector<TensorPtr> copies;
    try {
        for (const std::shared_ptr<const GpuTensor>& tensor : tensors) {
            const size_t bytes = tensor->block.bytes();
            const auto copy =
                std::make_shared<PinnedTensor>(tensor->type, tensor->shape, Block(shared_from_this(), MemoryKind::PINNED, bytes));
            copies.push_back(copy);
            check_cuda(cudaMemcpyAsync(copy->block.address(), tensor->block.address(), bytes, cudaMemcpyDeviceToHost, stream_),
                       "cudaMemcpyAsync");
        }
    } catch (...) {
        finish_quietly();  // copies under way still write what is freed now
        throw;
    }
    return copies;
}

void Gpu::finish(std::unique_lock<std::mutex>& lock) {
    std::vector<Staged> done;  // by the end of the work that is on the stream now; others may put more there meanwhile
    done.swap(staged_);
    staged_bytes_ = 0;
    lock.unlock();
    const cudaError_t error = cudaStreamSynchronize(stream_);
    give_back(done);
    lock.lock();
    check_cuda(error, "cudaStreamSynchronize");
}

void Gpu::finish_quietly() const noexcept {
    cudaStreamSynchronize(stream_);
    cudaGetLastError();
}

void Gpu::give_back(std::vector<Staged>& staged) noexcept {
    for (const Staged& block : staged) pinned_pool_.give_back(block.address, block.bytes);
    staged.clear();
}

}  // namespace nerve
