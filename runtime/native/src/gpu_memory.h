// A GPU's memory and its one stream: all work of a back end goes there, so that it is in order by construction.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"

namespace nerve {

// What to do where a GPU's memory ran out; the end of messages.
constexpr const char* GPU_MEMORY_ADVICE =
    "; end other programs on the GPU, use smaller frames, or build a bundle of a smaller --size";

// Raises ResourceError: the GPU has no room; CompatibilityError: any other error of a function, which is named.
void check_cuda(cudaError_t error, const char* function);

enum class MemoryKind { DEVICE, PINNED };

// Memory in blocks, which are kept for later ones of the same size. For any thread.
class MemoryPool {
   public:
    explicit MemoryPool(MemoryKind kind) : kind_(kind) {}
    ~MemoryPool() { free_spare(); }

    // A block with arbitrary content. Raises ResourceError, after all spare blocks were freed: there is no room.
    void* take(size_t bytes);
    void give_back(void* address, size_t bytes) noexcept;

   private:
    void free_spare() noexcept;

    const MemoryKind kind_;
    std::mutex mutex_;
    std::multimap<size_t, void*> spare_;  // by size
    size_t spare_bytes_ = 0, used_bytes_ = 0;
};

class Gpu;

// A piece of memory, which goes back to its pool.
class Block {
   public:
    Block(std::shared_ptr<Gpu> gpu, MemoryKind kind, size_t bytes);
    Block(Block&& other) noexcept;
    Block& operator=(Block&&) = delete;
    ~Block();

    void* address() const { return address_; }
    size_t bytes() const { return bytes_; }

   private:
    std::shared_ptr<Gpu> gpu_;
    MemoryKind kind_;
    size_t bytes_;
    void* address_;
};

// A tensor in the GPU's memory, or one in pinned memory that was copied from there.
class GpuTensor : public Tensor {
   public:
    GpuTensor(ElementType type, Shape shape, Block block) : Tensor(type, std::move(shape)), block(std::move(block)) {}

    const Block block;
};

class PinnedTensor : public Tensor {
   public:
    PinnedTensor(ElementType type, Shape shape, Block block) : Tensor(type, std::move(shape)), block(std::move(block)) {}

    const void* host_view() const override { return block.address(); }

    const Block block;
};

class Gpu : public std::enable_shared_from_this<Gpu> {
   public:
    // Raises CompatibilityError: there is no such GPU, or its driver is missing or too old.
    explicit Gpu(int device);
    ~Gpu();
    Gpu(const Gpu&) = delete;
    Gpu& operator=(const Gpu&) = delete;

    // Compute capability, such as "sm89".
    const std::string& capability() const { return capability_; }
    cudaStream_t stream() const { return stream_; }

    // Make this the GPU of the thread; before any other call.
    void use() const;

    // Held while work is put on the stream.
    std::mutex& mutex() { return mutex_; }

    MemoryPool& pool(MemoryKind kind) { return kind == MemoryKind::DEVICE ? device_pool_ : pinned_pool_; }

    // A tensor that work of the stream is going to write.
    std::shared_ptr<const GpuTensor> tensor(ElementType type, const Shape& shape);

    // Copy a host tensor, whose memory is read before this returns; the mutex is held.
    std::shared_ptr<const GpuTensor> upload(const Tensor& host);

    // Copies of tensors, to be read after the next finish(); the mutex is held.
    std::vector<TensorPtr> download(const std::vector<std::shared_ptr<const GpuTensor>>& tensors);

    // Wait for all work on the stream; the mutex is held by `lock`, which is open while this waits.
    void finish(std::unique_lock<std::mutex>& lock);

    // The same where nothing can be done about an error.
    void finish_quietly() const noexcept;

   private:
    const int device_;
    std::string capability_;
    cudaStream_t stream_ = nullptr;
    std::mutex mutex_;
    MemoryPool device_pool_{MemoryKind::DEVICE}, pinned_pool_{MemoryKind::PINNED};

    // Pinned memory that copies on the stream may still read. Its blocks do not keep the Gpu, which keeps them.
    struct Staged {
        void* address;
        size_t bytes;
    };
    void give_back(std::vector<Staged>& staged) noexcept;
    std::vector<Staged> staged_;
    size_t staged_bytes_ = 0;
};

}  // namespace nerve
