import Foundation

/// `samples` in [-1, 1] as a mono 16-bit WAV file.
public func wav(_ samples: [Float], sampleRate: Int) -> Data {
    var data = Data()
    func put<T: FixedWidthInteger>(_ value: T) { withUnsafeBytes(of: value.littleEndian) { data.append(contentsOf: $0) } }
    data.append(contentsOf: Array("RIFF".utf8))
    put(UInt32(36 + 2 * samples.count))
    data.append(contentsOf: Array("WAVEfmt ".utf8))
    put(UInt32(16)); put(UInt16(1)); put(UInt16(1))
    put(UInt32(sampleRate)); put(UInt32(2 * sampleRate)); put(UInt16(2)); put(UInt16(16))
    data.append(contentsOf: Array("data".utf8))
    put(UInt32(2 * samples.count))
    for sample in samples { put(Int16((max(-1, min(1, sample)) * 32767).rounded(.toNearestOrEven))) }
    return data
}
